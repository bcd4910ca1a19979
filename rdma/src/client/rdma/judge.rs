//! What an answer to a request with a token means: for the request, and for the memory that was opened.

use super::super::send::Failure;
use crate::{
    Error,
    fabric::Direction,
    protocol::{Checksum, code, header, reply_code},
};
use http::{HeaderMap, HeaderName, Response, StatusCode, header::CONTENT_RANGE};

/// Bytes that moved.
#[derive(Debug)]
pub(in super::super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: u64,
    /// CRC-64/NVME of them, as the storage node computed it.
    pub checksum: Option<u64>,
    /// Where they were asked for in several requests, what each of them moved, in order; else nothing.
    pub slices: Vec<Piece>,
}

/// What one request moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Piece {
    pub bytes: u64,
    /// CRC-64/NVME of them, as the storage node computed it.
    pub checksum: Option<u64>,
    /// That of what is in memory, where it was computed already.
    pub arrived: Option<u64>,
}

impl Answer {
    /// What each request moved, in order.
    pub fn pieces(&self) -> Vec<Piece> {
        if !self.slices.is_empty() {
            return self.slices.clone();
        }
        vec![Piece {
            bytes: self.bytes,
            checksum: self.checksum,
            arrived: None,
        }]
    }
}

/// What follows for the request.
#[derive(Debug)]
pub(super) enum Verdict<B> {
    Moved(Answer),
    /// They can go as an HTTP body; for a GET it is here.
    Declined(Option<Response<B>>),
    /// The session is of no use any more; another one may do.
    Session {
        error: Error,
        performed: bool,
    },
    /// Come back later.
    Busy(Error),
    /// The window holds less than this.
    TooSmall {
        needed: u64,
    },
    /// The server does not do what the protocol says.
    NotOurs(String),
    /// What was asked for has this outcome.
    Final(Error),
}

/// What follows for the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// The storage node is done with it.
    Closed,
    /// Bytes may still land: the queue pair must die first.
    InDoubt,
}

/// Judges an answer. `size` is the window's.
pub(super) fn judge<B>(
    answer: Result<Response<B>, Failure>,
    direction: Direction,
    size: u64,
) -> (Window, Verdict<B>) {
    match answer {
        Ok(response) => judge_success(response, direction, size),
        Err(failure) => judge_failure(failure),
    }
}

fn judge_success<B>(response: Response<B>, direction: Direction, size: u64) -> (Window, Verdict<B>) {
    let headers = response.headers();
    let reply = text(headers, &header::REPLY).map(reply_code);
    if let Some(Ok(501)) = reply {
        // The AWS draft has 200 here for a PUT that was not stored.
        let body = (direction == Direction::Written).then_some(response);
        return (Window::Closed, Verdict::Declined(body));
    }
    let not_ours = |cause: &str| (Window::InDoubt, Verdict::NotOurs(cause.to_owned()));
    if reply != Some(Ok(response.status().as_u16())) {
        return not_ours("it took a token and does not say whether bytes moved");
    }
    let bytes = text(headers, &header::BYTES).and_then(|bytes| bytes.parse::<u64>().ok());
    let Some(bytes) = bytes else {
        return not_ours("it does not say how many bytes moved");
    };
    let expected = match direction {
        Direction::Read => bytes == size,
        Direction::Written if response.status() == StatusCode::PARTIAL_CONTENT => {
            // What moved may be the beginning of what a gateway's client asked for.
            let total = text(headers, &header::TOTAL).and_then(|total| total.parse().ok());
            let total = total.unwrap_or(bytes);
            let said = text(headers, &CONTENT_RANGE).and_then(length_of_range);
            bytes <= size && bytes <= total && said == Some(total)
        }
        Direction::Written => bytes <= size,
    };
    if !expected {
        return not_ours("it moved another number of bytes than asked for");
    }
    let checksum = text(headers, &header::CHECKSUM)
        .and_then(|value| Checksum::parse("x-amz-rdma-checksum", value).ok())
        .map(|checksum| checksum.0);
    let (parts, _no_body) = response.into_parts();
    let answer = Answer {
        status: parts.status,
        headers: parts.headers,
        bytes,
        checksum,
        slices: Vec::new(),
    };
    (Window::Closed, Verdict::Moved(answer))
}

fn judge_failure<B>(failure: Failure) -> (Window, Verdict<B>) {
    // The server itself answered, after its drain, and not something on the way.
    let replied = failure.headers.contains_key(header::REPLY);
    let needed = text(&failure.headers, &header::NEEDED).and_then(|needed| needed.parse().ok());
    let error = failure.error;
    let Error::Refused { status, code, .. } = &error else {
        let verdict = match error {
            error @ (Error::Unreachable { .. } | Error::Stalled { .. }) => Verdict::Session {
                error,
                performed: failure.performed,
            },
            error => Verdict::Final(error),
        };
        return (Window::InDoubt, verdict);
    };
    match code.as_str() {
        code::NO_SUCH_SESSION | code::SEQUENCE_CONFLICT | code::TRANSFER_FAILED => (
            Window::InDoubt,
            Verdict::Session {
                error,
                performed: false,
            },
        ),
        code::INVALID_TOKEN => (Window::InDoubt, Verdict::Final(error)),
        code::WINDOW_TOO_SMALL => match needed {
            Some(needed) => (Window::Closed, Verdict::TooSmall { needed }),
            None => (Window::InDoubt, Verdict::Final(error)),
        },
        code::NOT_SUPPORTED if replied => (Window::Closed, Verdict::Declined(None)),
        _ if *status == 503 => {
            let window = if replied { Window::Closed } else { Window::InDoubt };
            (window, Verdict::Busy(error))
        }
        _ if *status >= 500 && !replied => (Window::InDoubt, Verdict::Final(error)),
        _ => (Window::Closed, Verdict::Final(error)),
    }
}

/// Length of a `Content-Range`.
fn length_of_range(value: &str) -> Option<u64> {
    let (range, _) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    last.checked_sub(first)?.checked_add(1)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success(status: u16, headers: &[(HeaderName, &str)]) -> Result<Response<()>, Failure> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Ok(response)
    }

    fn failure(status: u16, code: &str, replied: bool) -> Result<Response<()>, Failure> {
        let mut headers = HeaderMap::new();
        if replied {
            headers.insert(header::REPLY, status.into());
        }
        Err(Failure {
            error: Error::Refused {
                status,
                code: code.to_owned(),
                message: String::new(),
            },
            performed: false,
            repeatable: status == 503,
            headers: Box::new(headers),
        })
    }

    #[test]
    fn success_is_believed_only_with_its_proof() {
        let moved = |answer, direction| match judge(answer, direction, 10) {
            (Window::Closed, Verdict::Moved(answer)) => Some(answer.bytes),
            (Window::InDoubt, Verdict::NotOurs(_)) => None,
            other => panic!("{other:?}"),
        };
        let (reply, bytes) = (header::REPLY, header::BYTES);
        let get = |status, list: &[(HeaderName, &str)]| moved(success(status, list), Direction::Written);
        let range = |value| (CONTENT_RANGE, value);
        assert_eq!(
            get(200, &[(reply.clone(), "200"), (bytes.clone(), "10")]),
            Some(10)
        );
        assert_eq!(get(200, &[(reply.clone(), "200"), (bytes.clone(), "11")]), None);
        assert_eq!(get(200, &[(reply.clone(), "206"), (bytes.clone(), "10")]), None);
        assert_eq!(get(200, &[(reply.clone(), "200")]), None);
        assert_eq!(get(200, &[(bytes.clone(), "10")]), None);
        assert_eq!(get(200, &[]), None);
        let partial = [
            (reply.clone(), "206"),
            (bytes.clone(), "4"),
            range("bytes 3-6/20"),
        ];
        assert_eq!(get(206, &partial), Some(4));
        let partial = [
            (reply.clone(), "206"),
            (bytes.clone(), "5"),
            range("bytes 3-6/20"),
        ];
        assert_eq!(get(206, &partial), None);
        let put = |list: &[(HeaderName, &str)]| moved(success(200, list), Direction::Read);
        assert_eq!(put(&[(reply.clone(), "200"), (bytes.clone(), "10")]), Some(10));
        assert_eq!(put(&[(reply, "200"), (bytes, "0")]), None);
    }

    #[test]
    fn memory_is_given_back_only_when_the_server_said_that_it_is_done() {
        for (status, code, replied, window) in [
            (500, "RdmaTransferFailed", true, Window::InDoubt),
            (500, "InternalError", false, Window::InDoubt),
            (502, "Http502", false, Window::InDoubt),
            (503, "SlowDown", true, Window::Closed),
            (503, "ServiceUnavailable", false, Window::InDoubt),
            (404, "NoSuchRdmaSession", true, Window::InDoubt),
            (409, "RdmaSequenceConflict", true, Window::InDoubt),
            (400, "InvalidRdmaToken", true, Window::InDoubt),
            (404, "NoSuchKey", false, Window::Closed),
            (412, "PreconditionFailed", false, Window::Closed),
            (501, "RDMANotSupported", true, Window::Closed),
        ] {
            let (judged, _) = judge(failure(status, code, replied), Direction::Written, 10);
            assert_eq!(judged, window, "{status} {code}");
        }
        let lost = Err::<Response<()>, _>(Failure {
            error: Error::Unreachable {
                endpoint: String::new(),
                source: "gone".into(),
            },
            performed: true,
            repeatable: true,
            headers: Box::default(),
        });
        assert!(matches!(
            judge(lost, Direction::Read, 10),
            (Window::InDoubt, Verdict::Session { performed: true, .. })
        ));
    }

    #[test]
    fn a_put_that_was_declined_is_no_success_whatever_its_status() {
        let declined = success(200, &[(header::REPLY, "501")]);
        assert!(matches!(
            judge(declined, Direction::Read, 10),
            (Window::Closed, Verdict::Declined(None))
        ));
    }
}
