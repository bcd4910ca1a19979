//! A connection whose client names a valid authority, whatever it really names.

use super::headers::Rewriter;
use bytes::{Buf, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;
use tonic::transport::server::Connected;

/// How much is read at once.
const READ: usize = 16 << 10;

/// The server's end of an HTTP/2 connection; what the client sends is rewritten, what the server answers is not.
#[derive(Debug)]
pub(super) struct ValidAuthority<S> {
    connection: S,
    rewriter: Rewriter,
    received: BytesMut,
    rewritten: BytesMut,
}

impl<S> ValidAuthority<S> {
    pub(super) fn new(connection: S) -> Self {
        Self {
            connection,
            rewriter: Rewriter::default(),
            received: BytesMut::new(),
            rewritten: BytesMut::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ValidAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rewritten.is_empty() {
            this.received.reserve(READ);
            if ready!(poll_read_buf(
                Pin::new(&mut this.connection),
                cx,
                &mut this.received
            ))? == 0
            {
                return Poll::Ready(Ok(()));
            }
            this.rewriter.rewrite(&mut this.received, &mut this.rewritten)?;
        }
        let moved = this.rewritten.len().min(buf.remaining());
        buf.put_slice(&this.rewritten[..moved]);
        this.rewritten.advance(moved);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ValidAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

impl<S: Connected> Connected for ValidAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}
