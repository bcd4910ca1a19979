//! GetObject, HeadObject.

use super::{
    Front,
    attributes::{self, Sums},
    convert,
    encryption::{self, Customer, Told, customer},
    error,
    fields::described,
    lend,
};
use crate::{
    engine::{ByteRange, Checksums, Error, Marker, ObjectInfo, ObjectRef, Precondition},
    rdma::{Carried, Refusal},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_TYPE, LAST_MODIFIED},
};
use penstock_rdma::protocol::header;
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ObjectLockMode},
    s3_error,
};

pub(super) async fn get_object(
    front: &Front,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    encryption::refuse_header(&request.headers)?;
    let customer = customer!(request, input)?;
    let owner = request
        .credentials
        .as_ref()
        .map(|signer| signer.access_key.as_str());
    let carried = request.extensions.get::<Carried>();
    let tokened = match carried {
        Some(carried) => Some(carried.tokened.clone()),
        None => front
            .rdma
            .tokened(&request.headers, owner)
            .map_err(|refusal| refusal.answer())?,
    };
    let object = convert::version(&input.bucket, &input.key, input.version_id.as_deref())?;
    let mut precondition = convert::precondition(input.if_match, input.if_none_match);
    precondition.key = customer.as_ref().map(|customer| customer.key.clone());
    let mut range = input.range.map(convert::range);
    let mut parts_count = None;
    if let Some(number) = input.part_number {
        let info = head(front, &object, customer.as_ref()).await;
        let info = info.map_err(|error| read_error(error, &precondition))?;
        let part = part_range(&info, number, range)?;
        // Nothing has no range.
        range = Some(part).filter(|_| info.size > 0);
        parts_count = parts_of(&info);
        // The part is one of these bytes.
        precondition.if_match.get_or_insert_with(|| info.etag.clone());
    }
    let (precondition, range) = (precondition, range);
    let asked = lend::asked(&request.headers, &request.extensions)?;
    let check = |info: &ObjectInfo| {
        let (since, before) = (input.if_modified_since.clone(), input.if_unmodified_since.clone());
        convert::check_dates(&object, info, &precondition, since, before)
            .map_err(|error| read_error(error, &tag_of(info)))
    };
    let status = if range.is_some() { 206 } else { 200 };
    let (mut delivered, mut headers) = (None, HeaderMap::new());
    if let Some(tokened) = &tokened {
        if let Some(carried) = carried {
            let asked = (&object, range, &precondition);
            let begun = front
                .rdma
                .begin(carried, &*front.engine, asked, |info| {
                    check(info).map_err(lend::Error::from)
                })
                .await;
            let begun = begun.map_err(|error| match error {
                lend::Error::Engine(error) => read_error(error, &precondition),
                lend::Error::Refused(answer) => answer,
            })?;
            if let Some(begun) = begun {
                headers = begun.headers;
                delivered = Some((begun.info, begun.range));
            }
        } else if front.rdma.delivers() {
            let opened = front.engine.open(&object, range, &precondition).await;
            let opened = opened.map_err(|error| read_error(error, &precondition))?;
            check(&opened.info)?;
            let (info, bytes) = (opened.info.clone(), opened.range.clone());
            match front.rdma.deliver(tokened, opened).await {
                Ok(moved) => {
                    headers = moved.headers(status, info.crc64nvme);
                    delivered = Some((info, bytes));
                }
                Err(Refusal::NotSupported) => {}
                Err(refusal) => return Err(refusal.answer()),
            }
        }
        if delivered.is_none() {
            if !tokened.fallback {
                return Err(Refusal::NotSupported.answer());
            }
            headers.insert(header::REPLY, HeaderValue::from_static("501"));
        }
    }
    let (info, bytes, mut source) = match delivered {
        // They are where they belong.
        Some((info, bytes)) => (info, bytes, lend::Bytes::Body(None)),
        None => {
            let opened = lend::open(front, &object, range, &precondition, asked).await;
            let opened = opened.map_err(|error| match error {
                lend::Error::Engine(error) => read_error(error, &precondition),
                lend::Error::Refused(answer) => answer,
            })?;
            check(&opened.info)?;
            (opened.info, opened.range, opened.bytes)
        }
    };
    let content_range = range.map(|_| convert::content_range(&bytes, info.size));
    let sums = sums_of(
        &info,
        input.part_number,
        content_range.is_none(),
        input.checksum_mode.is_some(),
    );
    let (body, length) = source.of_answer(front, &bytes);
    let told = Told::of(info.attributes.encryption.as_ref(), customer);
    let tags = info.attributes.tags.len();
    let mut answer = S3Response::with_headers(
        described! { info, sums, told for input => GetObjectOutput {
            body,
            content_length: Some(convert::size(length)),
            content_range,
            parts_count,
            tag_count: i32::try_from(tags).ok().filter(|count| *count > 0),
            ..Default::default()
        } },
        headers,
    );
    source.lend(front, &mut answer)?;
    Ok(answer)
}

/// The bytes of a part; an object that was not uploaded in parts is one.
fn part_range(info: &ObjectInfo, number: i32, range: Option<ByteRange>) -> S3Result<ByteRange> {
    if range.is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "Cannot specify both Range header and partNumber query parameter"
        ));
    }
    let parts: Vec<u64> = match info.attributes.parts.is_empty() {
        true => vec![info.size],
        false => info.attributes.parts.iter().map(|part| part.size).collect(),
    };
    let at = usize::try_from(number)
        .ok()
        .filter(|number| *number <= 10_000)
        .and_then(|number| number.checked_sub(1));
    let Some(at) = at else {
        return Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive"
        ));
    };
    let Some(length) = parts.get(at) else {
        return Err(error::coded(
            "InvalidPartNumber",
            StatusCode::RANGE_NOT_SATISFIABLE,
            "The requested partnumber is not satisfiable",
        ));
    };
    let first: u64 = parts[..at].iter().sum();
    Ok(ByteRange::From {
        first,
        last: Some((first + length).saturating_sub(1)),
    })
}

/// The checksums of what is read: the whole, or a part that has some of its own.
fn sums_of(info: &ObjectInfo, number: Option<i32>, is_whole: bool, wanted: bool) -> Sums {
    let at = number.and_then(|number| usize::try_from(number).ok()?.checked_sub(1));
    let part = at.and_then(|at| info.attributes.parts.get(at));
    match part {
        Some(part) if wanted => {
            let kind = info.attributes.checksums.of.keys().next();
            let of = kind.copied().zip(part.checksum.clone()).into_iter().collect();
            let checksums = Checksums {
                of,
                is_composite: info.attributes.checksums.is_composite,
            };
            Sums::from(checksums, Some(part.crc64nvme))
        }
        _ => Sums::of(info, wanted && is_whole),
    }
}

fn parts_of(info: &ObjectInfo) -> Option<i32> {
    let count = i32::try_from(info.attributes.parts.len()).ok();
    count.filter(|count| *count > 0)
}

fn tag_of(info: &ObjectInfo) -> Precondition {
    Precondition {
        if_match: None,
        if_none_match: Some(info.etag.clone()),
        key: None,
    }
}

/// An answer to a read; a 304 carries the entity tag (RFC 9110, 15.4.5), a 416 the size.
pub(super) fn read_error(error: Error, asked: &Precondition) -> S3Error {
    if let Error::Marker(found) = &error {
        return marker(found, error.to_string());
    }
    let header = match &error {
        Error::NotModified(_) => asked
            .if_none_match
            .as_ref()
            .filter(|tag| *tag != "*")
            .map(|tag| ("etag", format!("\"{tag}\""))),
        Error::InvalidRange { size } => Some(("content-range", format!("bytes */{size}"))),
        _ => None,
    };
    let is_range = matches!(error, Error::InvalidRange { .. });
    let mut answer = error::answer(error);
    if let Some((name, value)) = header
        && let Ok(value) = value.parse()
    {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        if is_range {
            headers.insert("content-type", http::HeaderValue::from_static("application/xml"));
        }
        answer.set_headers(headers);
    }
    answer
}

/// Of a delete marker: nothing is there, and where it was named it cannot be read either (S3 API, "Working with delete markers").
fn marker(found: &Marker, message: String) -> S3Error {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(version) = HeaderValue::try_from(found.version.to_string()) {
        headers.insert("x-amz-version-id", version);
    }
    let code = match found.object.version {
        None => S3ErrorCode::NoSuchKey,
        Some(_) => {
            headers.insert(ALLOW, HeaderValue::from_static("DELETE"));
            headers.extend(convert::http_date(found.modified).map(|date| (LAST_MODIFIED, date)));
            S3ErrorCode::MethodNotAllowed
        }
    };
    let mut answer = S3Error::with_message(code, message);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer.set_headers(headers);
    answer
}

/// In the extensions of an answer: its status is 206. s3s has none but 200 for HEAD.
#[derive(Clone, Copy)]
pub(super) struct Partial;

/// An answer to HEAD has no body, so its code is in a header: else our client had to ask whether it is the bucket that is missing.
fn head_error(error: Error) -> S3Error {
    let mut answer = read_error(error, &Precondition::default());
    if let Ok(code) = HeaderValue::from_str(answer.code().as_str()) {
        let mut headers = answer.headers().cloned().unwrap_or_default();
        headers.insert(penstock_rdma::ERROR_CODE, code);
        answer.set_headers(headers);
    }
    answer
}

pub(super) async fn head_object(
    front: &Front,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    encryption::refuse_header(&request.headers)?;
    let customer = customer!(request, input)?;
    let object = convert::version(&input.bucket, &input.key, input.version_id.as_deref())?;
    let precondition = convert::precondition(input.if_match, input.if_none_match);
    let info = head(front, &object, customer.as_ref())
        .await
        .map_err(head_error)?;
    let told = Told::of(info.attributes.encryption.as_ref(), customer);
    check_tags(&object, &info, &precondition)
        .and_then(|()| {
            convert::check_dates(
                &object,
                &info,
                &precondition,
                input.if_modified_since,
                input.if_unmodified_since,
            )
        })
        .map_err(|error| read_error(error, &tag_of(&info)))?;
    let mut range = input.range.map(convert::range);
    if let Some(number) = input.part_number {
        range = Some(part_range(&info, number, range)?);
    }
    let bytes = match range {
        None => 0..info.size,
        // The one part of nothing.
        Some(_) if info.size == 0 && input.part_number.is_some() => 0..0,
        Some(range) => range
            .of(info.size)
            .ok_or(Error::InvalidRange { size: info.size })
            .map_err(|error| read_error(error, &precondition))?,
    };
    let content_range = range
        .filter(|_| !bytes.is_empty())
        .map(|_| convert::content_range(&bytes, info.size));
    let sums = sums_of(
        &info,
        input.part_number,
        content_range.is_none(),
        input.checksum_mode.is_some(),
    );
    let partial = content_range.is_some();
    let (parts_count, tags) = (parts_of(&info), info.attributes.tags.len());
    let mut headers = HeaderMap::new();
    if tags > 0 {
        headers.insert("x-amz-tagging-count", HeaderValue::from(tags));
    }
    let mut answer = S3Response::with_headers(
        described! { info, sums, told for input => HeadObjectOutput {
            content_length: Some(convert::size(bytes.end - bytes.start)),
            content_range,
            parts_count: parts_count.filter(|_| input.part_number.is_some()),
            ..Default::default()
        } },
        headers,
    );
    if partial {
        answer.extensions.insert(Partial);
    }
    Ok(answer)
}

/// The facts of an object, if the key is the one to be told them.
async fn head(front: &Front, object: &ObjectRef, customer: Option<&Customer>) -> Result<ObjectInfo, Error> {
    let info = front.engine.head(object).await?;
    encryption::permits(&info, customer)?;
    Ok(info)
}

fn check_tags(object: &ObjectRef, info: &ObjectInfo, asked: &Precondition) -> Result<(), Error> {
    let holds = |tag: &String| tag == "*" || *tag == info.etag;
    if asked.if_match.as_ref().is_some_and(|tag| !holds(tag)) {
        return Err(Error::PreconditionFailed(object.clone()));
    }
    if asked.if_none_match.as_ref().is_some_and(holds) {
        return Err(Error::NotModified(object.clone()));
    }
    Ok(())
}
