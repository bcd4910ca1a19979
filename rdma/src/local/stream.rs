//! A Unix stream whose messages carry descriptors (`SCM_RIGHTS`, unix(7)).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::{self, MaybeUninit},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

/// The most descriptors that one message can carry (`SCM_MAX_FD` of Linux).
pub const MOST_DESCRIPTORS: usize = 253;
/// The most that is read at once: the buffer must be set to zero before.
const READ: usize = 256 << 10;

/// The descriptors beside a stream's bytes. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Descriptors(Arc<Mutex<Queues>>);

#[derive(Default)]
struct Queues {
    incoming: Vec<OwnedFd>,
    outgoing: Vec<OwnedFd>,
}

impl Descriptors {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that came since they were last taken.
    pub fn take(&self) -> Vec<OwnedFd> {
        mem::take(&mut self.queues().incoming)
    }

    /// Sends these along with the first byte that is written from now on.
    ///
    /// # Errors
    /// When others wait still, or when they are more than one message can carry.
    pub fn attach(&self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut queues = self.queues();
        if !queues.outgoing.is_empty() {
            return Err(io::Error::other(
                "descriptors of another message were not sent yet",
            ));
        }
        if descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::Error::other(format!(
                "{} descriptors do not fit one message, {MOST_DESCRIPTORS} do",
                descriptors.len()
            )));
        }
        queues.outgoing = descriptors;
        Ok(())
    }
}

/// A connected Unix socket, and the descriptors that travel on it.
pub struct DescriptorStream {
    stream: UnixStream,
    descriptors: Descriptors,
    /// More at a time than this end the connection.
    most: usize,
}

impl DescriptorStream {
    /// Wraps a stream on which the peer may have at most `most` descriptors under way that nobody has taken.
    pub fn new(stream: UnixStream, most: usize) -> Self {
        Self {
            stream,
            descriptors: Descriptors::default(),
            most,
        }
    }

    /// What travels beside its bytes.
    pub fn descriptors(&self) -> Descriptors {
        self.descriptors.clone()
    }

    fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(room)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )?;
        let mut queues = self.descriptors.queues();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                queues.incoming.extend(descriptors);
            }
        }
        // Truncated: out of descriptors (RLIMIT_NOFILE). What follows could not be told apart any more.
        if got.flags.contains(ReturnFlags::CTRUNC) || queues.incoming.len() > self.most {
            queues.incoming.clear();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more descriptors came than there may be; raise the limit of open files if this process is out of them",
            ));
        }
        Ok(got.bytes)
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut queues = self.descriptors.queues();
        let descriptors: Vec<_> = queues.outgoing.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("the descriptors do not fit one message"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = rustix::net::sendmsg(&self.stream, bytes, &mut control, flags)?;
        drop(descriptors);
        // They went with the first byte.
        if sent > 0 {
            queues.outgoing.clear();
        }
        Ok(sent)
    }

    fn has_outgoing(&self) -> bool {
        !self.descriptors.queues().outgoing.is_empty()
    }
}

impl AsyncRead for DescriptorStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wanted = buffer.remaining().min(READ);
        if wanted == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(this.stream.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled_to(wanted);
            match this.stream.try_io(Interest::READABLE, || this.receive(room)) {
                Ok(got) => {
                    buffer.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for DescriptorStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.has_outgoing() {
            return Pin::new(&mut this.stream).poll_write_vectored(context, bytes);
        }
        if bytes.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            ready!(this.stream.poll_write_ready(context))?;
            match this.stream.try_io(Interest::WRITABLE, || this.send(bytes)) {
                Ok(sent) => return Poll::Ready(Ok(sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Seek, Write},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn memfd(content: &str) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(content.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    }

    fn content(fd: OwnedFd) -> String {
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn descriptors_come_with_the_message_they_were_attached_to() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (DescriptorStream::new(here, 4), DescriptorStream::new(there, 4));
        let (sent, got) = (here.descriptors(), there.descriptors());
        for round in 0..3 {
            let names: Vec<String> = (0..round).map(|at| format!("{round}/{at}")).collect();
            sent.attach(names.iter().map(|name| memfd(name)).collect())
                .unwrap();
            // Messages that are written while the one before was not read yet, too.
            here.write_all(b"head").await.unwrap();
            here.write_all(b"body").await.unwrap();
            let mut bytes = [0; 4];
            there.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"head");
            let came: Vec<String> = got.take().into_iter().map(content).collect();
            assert_eq!(came, names);
            there.read_exact(&mut bytes).await.unwrap();
            assert!(&bytes == b"body" && got.take().is_empty());
        }
    }

    #[tokio::test]
    async fn a_peer_that_sends_too_many_is_cut_off() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (DescriptorStream::new(here, 1), DescriptorStream::new(there, 1));
        let many = |count| (0..count).map(|_| memfd("x")).collect::<Vec<_>>();
        assert!(here.descriptors().attach(many(MOST_DESCRIPTORS + 1)).is_err());
        here.descriptors().attach(many(2)).unwrap();
        assert!(here.descriptors().attach(many(1)).is_err(), "others wait still");
        here.write_all(b"x").await.unwrap();
        let error = there.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(there.descriptors().take().is_empty());
    }

    #[tokio::test]
    async fn what_does_not_fit_the_socket_waits_with_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (DescriptorStream::new(here, 4), DescriptorStream::new(there, 4));
        let big = vec![7; 4 << 20];
        let sent = here.descriptors();
        let writer = tokio::spawn(async move {
            here.write_all(&big).await.unwrap();
            sent.attach(vec![memfd("late")]).unwrap();
            here.write_all(b"second").await.unwrap();
        });
        let mut first = vec![0; 4 << 20];
        there.read_exact(&mut first).await.unwrap();
        assert!(there.descriptors().take().is_empty() && first.iter().all(|byte| *byte == 7));
        let mut second = [0; 6];
        there.read_exact(&mut second).await.unwrap();
        assert_eq!(
            there
                .descriptors()
                .take()
                .into_iter()
                .map(content)
                .collect::<Vec<_>>(),
            ["late"]
        );
        writer.await.unwrap();
    }
}
