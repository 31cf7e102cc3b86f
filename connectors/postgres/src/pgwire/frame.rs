//! Frames of the PostgreSQL protocol, and what can be wrong with them.

use std::fmt;
use std::io;

use bytes::{Buf, Bytes, BytesMut};

use crate::fields::Fields;

/// `object_not_in_prerequisite_state`: the code of the notice that a publication was skipped, and of
/// the error that a slot was invalidated.
pub(super) const NOT_IN_STATE: &str = "55000";
/// `undefined_object`: the code of the error that a slot does not exist, and up to PostgreSQL 17 of
/// that a publication does not.
const UNDEFINED_OBJECT: &str = "42704";
/// How the message of a walsender begins that cannot say whose a table's storage is.
const UNMAPPED: &str = "could not map filen";

/// A message of the server: a tag and what it says.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A row is at most 1 GiB, and so is a message; twice that is a stream out of step.
const FRAME_BYTES_MAX: usize = 2 << 30;
pub(super) const HEADER_BYTES: usize = 5;

/// What a message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: u8,
    /// Of the whole message, its header, too.
    pub(super) bytes: usize,
}

/// What can go wrong on the connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server ended replication")]
    Ended,
    #[error("{0}")]
    Server(Box<ServerError>),
    #[error("the server does not speak TLS")]
    TlsRefused,
    #[error("{0}")]
    Authentication(String),
    #[error("the server no longer has the publication: {0}")]
    PublicationSkipped(Box<ServerError>),
    #[error("the server sent a malformed {0}")]
    Malformed(&'static str),
    #[error("the server announced a message of {0} bytes")]
    FrameTooLong(usize),
    #[error("the server sent message {tag:?} during {during}")]
    Unexpected { tag: char, during: &'static str },
}

impl WireError {
    /// Whether the walsender fell over the storage of a table that a transaction has made and rolled back:
    /// `.. filenumber`, before version 16 `.. filenode`. It looks for that only where it sends a
    /// transaction before its commit, and falls at the same place each time.
    pub(crate) fn is_unmapped(&self) -> bool {
        matches!(self, Self::Server(error) if error.message.starts_with(UNMAPPED))
    }

    /// Whether the publication does not exist at the place in the WAL that was decoded.
    pub(crate) fn is_missing_publication(&self) -> bool {
        matches!(self, Self::PublicationSkipped(_))
            || matches!(self, Self::Server(error) if error.code == UNDEFINED_OBJECT)
    }

    /// Whether a slot that replication was to start from is missing or was invalidated.
    pub(crate) fn is_lost_slot(&self) -> bool {
        let Self::Server(error) = self else { return false };
        [NOT_IN_STATE, UNDEFINED_OBJECT].contains(&error.code.as_str())
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An `ErrorResponse` or a `NoticeResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerError {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ", {}", self.detail) }
    }
}

impl Header {
    /// That of the message that `buffer` begins with, if it is there.
    #[inline]
    pub(super) fn of(buffer: &[u8]) -> Result<Option<Self>, WireError> {
        let mut fields = Fields::new(buffer);
        let (Some(tag), Some(length)) = (fields.u8(), fields.length()) else {
            return Ok(None);
        };
        if length < HEADER_BYTES - 1 {
            return Err(WireError::Malformed("frame length"));
        }
        if length > FRAME_BYTES_MAX {
            return Err(WireError::FrameTooLong(length));
        }
        Ok(Some(Self { tag, bytes: length + 1 }))
    }
}

impl Frame {
    /// Cuts the next frame off `buffer`, if it is there as a whole.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, WireError> {
        let Some(Header { tag, bytes }) = Header::of(buffer)? else { return Ok(None) };
        if buffer.len() < bytes {
            // Room for all of it, so that a large row is not copied again and again.
            buffer.reserve(bytes - buffer.len());
            return Ok(None);
        }
        let mut body = buffer.split_to(bytes).freeze();
        body.advance(HEADER_BYTES);
        Ok(Some(Self { tag, body }))
    }

    pub(super) fn unexpected(&self, during: &'static str) -> WireError {
        WireError::Unexpected { tag: char::from(self.tag), during }
    }

    /// The failure that a notice stands for: from PostgreSQL 18 on a missing publication is only
    /// that, and its rows are lost.
    pub(super) fn skipped_publication(&self) -> Option<WireError> {
        let notice = self.server_error();
        (notice.code == NOT_IN_STATE).then(|| WireError::PublicationSkipped(Box::new(notice)))
    }

    /// The body as an error or a notice.
    pub(super) fn server_error(&self) -> ServerError {
        let mut error = ServerError::default();
        let mut fields = Fields::new(&self.body);
        while let Some(kind) = fields.u8().filter(|kind| *kind != 0)
            && let Some(text) = fields.string()
        {
            match kind {
                // The severity that is never translated.
                b'V' => text.clone_into(&mut error.severity),
                b'C' => text.clone_into(&mut error.code),
                b'M' => text.clone_into(&mut error.message),
                b'D' => text.clone_into(&mut error.detail),
                _ => {}
            }
        }
        error
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::BufMut;

    /// A message as the server sends it.
    pub(in super::super) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.put_u32(u32::try_from(body.len()).unwrap() + 4);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn frames_are_cut_off_when_whole() {
        let mut buffer = BytesMut::from(&b"Z\0\0\0\x05Ik\0\0\0\x05"[..]);
        let frame = Frame::take(&mut buffer).unwrap().unwrap();
        assert_eq!((frame.tag, &frame.body[..]), (b'Z', &b"I"[..]));
        assert!(Frame::take(&mut buffer).unwrap().is_none());
        buffer.extend_from_slice(b"x");
        assert_eq!(Frame::take(&mut buffer).unwrap().unwrap().body, "x");
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_stream_out_of_step_is_noticed() {
        for bad in [&b"Z\0\0\0\x03"[..], b"Z\xFF\xFF\xFF\xFF"] {
            assert!(Frame::take(&mut BytesMut::from(bad)).is_err());
        }
    }

    #[test]
    fn errors_are_read() {
        let body = Bytes::from_static(b"SFEHLER\0VERROR\0C42704\0Mno slot\0Dnone at all\0\0");
        let error = Frame { tag: b'E', body }.server_error();
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.to_string(), "no slot (42704), none at all");
    }
}
