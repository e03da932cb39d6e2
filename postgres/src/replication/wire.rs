//! Messages of the protocol, version 3.0, as a client of a walsender gets them. Pure.

use super::{Event, Position};
use crate::server::Reason;
use crate::{Lsn, PgTimestamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Header;
use std::io;

/// No message of a walsender is larger, in bytes: WAL comes in 128 KiB at most.
const LARGEST: usize = 1 << 20;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    AuthenticationOk,
    CleartextPassword,
    Md5Password([u8; 4]),
    /// With the names of its mechanisms.
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    /// Another way to prove who one is, by its number.
    OtherAuthentication(i32),
    Error(Reason),
    /// Of no consequence here: notices, parameters, keys.
    Notice,
    ReadyForQuery,
    RowDescription,
    Row(Vec<Option<String>>),
    CommandComplete,
    CopyBoth,
    CopyData(Bytes),
    CopyDone,
    /// The connection has ended between two messages.
    Closed,
}

/// Takes one message off the buffer; none where it is not all there.
///
/// # Errors
/// If it is no message, too large, or damaged.
pub(super) fn take(buffer: &mut BytesMut) -> io::Result<Option<Incoming>> {
    let Some(header) = Header::parse(buffer)? else {
        return Ok(None);
    };
    // Without the tag, with itself: 4 at least.
    let length = header.len() as usize;
    if length > LARGEST {
        return Err(nonsense(format!(
            "a message of {length} bytes, of type {:?}",
            char::from(header.tag())
        )));
    }
    if buffer.len() < length + 1 {
        return Ok(None);
    }
    let mut body = buffer.split_to(length + 1).freeze();
    body.advance(5);
    let message = match header.tag() {
        b'R' => authentication(body),
        b'E' => Some(Incoming::Error(reason(&body))),
        b'N' | b'S' | b'K' | b'A' | b'v' => Some(Incoming::Notice),
        b'Z' => Some(Incoming::ReadyForQuery),
        b'T' => Some(Incoming::RowDescription),
        b'D' => row(body),
        b'C' => Some(Incoming::CommandComplete),
        b'W' => Some(Incoming::CopyBoth),
        b'd' => Some(Incoming::CopyData(body)),
        b'c' => Some(Incoming::CopyDone),
        _ => None,
    };
    match message {
        Some(message) => Ok(Some(message)),
        None => Err(nonsense(format!(
            "a message of type {:?} that can't be read",
            char::from(header.tag())
        ))),
    }
}

fn nonsense(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn authentication(mut body: Bytes) -> Option<Incoming> {
    Some(match body.try_get_i32().ok()? {
        0 => Incoming::AuthenticationOk,
        3 => Incoming::CleartextPassword,
        5 => Incoming::Md5Password(body.as_ref().try_into().ok()?),
        10 => {
            let names = body.split(|byte| *byte == 0);
            let names = names.filter(|name| !name.is_empty());
            Incoming::Sasl(names.map(text).collect())
        }
        11 => Incoming::SaslContinue(body),
        12 => Incoming::SaslFinal(body),
        other => Incoming::OtherAuthentication(other),
    })
}

/// "Error and Notice Message Fields": a letter and a text each.
fn reason(body: &[u8]) -> Reason {
    let mut reason = Reason::default();
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, value)) = field.split_first() else {
            continue;
        };
        match kind {
            b'M' => reason.message = text(value),
            b'D' => reason.detail = Some(text(value)),
            b'H' => reason.hint = Some(text(value)),
            b'C' => reason.code = Some(text(value)),
            _ => {}
        }
    }
    reason
}

fn row(mut body: Bytes) -> Option<Incoming> {
    let columns = body.try_get_u16().ok()?;
    let mut row = Vec::new();
    for _ in 0..columns {
        let value = match body.try_get_i32().ok()? {
            -1 => None,
            length => {
                let length = usize::try_from(length).ok()?;
                if body.len() < length {
                    return None;
                }
                Some(text(&body.split_to(length)))
            }
        };
        row.push(value);
    }
    Some(Incoming::Row(row))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is in a message of a stream; none where it is nothing known.
pub(super) fn event(data: &Bytes) -> Option<Event> {
    let mut body = data.clone();
    match body.try_get_u8().ok()? {
        b'w' => {
            let start = Lsn(body.try_get_u64().ok()?);
            let (_end, _time) = (body.try_get_u64().ok()?, body.try_get_i64().ok()?);
            // Past the last address there is no WAL.
            start.0.checked_add(body.len() as u64)?;
            Some(Event::Wal { start, bytes: body })
        }
        b'k' => {
            let sent = Lsn(body.try_get_u64().ok()?);
            let _time = body.try_get_i64().ok()?;
            let reply_now = body.try_get_u8().ok()? != 0;
            body.is_empty()
                .then_some(Event::Keepalive { sent, reply_now })
        }
        _ => None,
    }
}

/// A "standby status update", as a whole message.
pub(super) fn status(position: Position, now: PgTimestamp, out: &mut BytesMut) {
    out.put_u8(b'd');
    out.put_i32(4 + 1 + 3 * 8 + 8 + 1);
    out.put_u8(b'r');
    out.put_u64(position.written.0);
    out.put_u64(position.flushed.0);
    // Nothing is applied here.
    out.put_u64(Lsn::INVALID.0);
    out.put_i64(now.0);
    // It is to answer: else we can't tell an idle server from one that is gone.
    out.put_u8(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u8(tag);
        bytes.put_i32(body.len() as i32 + 4);
        bytes.put_slice(body);
        bytes
    }

    #[test]
    fn messages_are_told_apart() {
        let refused = b"SFATAL\0VFATAL\0C28000\0Mno entry\0Done\0Htwo\0Fauth.c\0\0";
        let row = b"\0\x03\0\0\0\x0142\xff\xff\xff\xff\0\0\0\0";
        let row = [&row[..6], b"7", &row[8..]].concat();
        for (tag, body, expected) in [
            (b'R', &b"\0\0\0\0"[..], Incoming::AuthenticationOk),
            (b'R', b"\0\0\0\x03", Incoming::CleartextPassword),
            (b'R', b"\0\0\0\x05salt", Incoming::Md5Password(*b"salt")),
            (
                b'R',
                b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
                Incoming::Sasl(vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()]),
            ),
            (
                b'R',
                b"\0\0\0\x0bmore",
                Incoming::SaslContinue(Bytes::from_static(b"more")),
            ),
            (b'R', b"\0\0\0\x07", Incoming::OtherAuthentication(7)),
            (
                b'E',
                refused,
                Incoming::Error(Reason {
                    message: "no entry".into(),
                    detail: Some("one".into()),
                    hint: Some("two".into()),
                    code: Some("28000".into()),
                }),
            ),
            (b'S', b"a\0b\0", Incoming::Notice),
            (b'Z', b"I", Incoming::ReadyForQuery),
            (
                b'D',
                &row,
                Incoming::Row(vec![Some("7".into()), None, Some(String::new())]),
            ),
            (b'W', b"\0\0\0", Incoming::CopyBoth),
            (b'd', b"x", Incoming::CopyData(Bytes::from_static(b"x"))),
        ] {
            let whole = message(tag, body);
            // In two pieces, and with the next behind it.
            let mut buffer = BytesMut::from(&whole[..whole.len() - 1]);
            assert_eq!(take(&mut buffer).unwrap(), None);
            buffer.put_slice(&whole[whole.len() - 1..]);
            buffer.put_slice(b"Z");
            assert_eq!(take(&mut buffer).unwrap(), Some(expected));
            assert_eq!(&buffer[..], b"Z");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut too_large = BytesMut::from(&b"d\x7f\xff\xff\xff"[..]);
        assert!(take(&mut too_large).is_err());
        for mut bad in [
            BytesMut::from(&b"d\0\0\0\x03"[..]),
            message(b'?', b""),
            message(b'R', b"\0"),
            message(b'R', b"\0\0\0\x05sal"),
            message(b'D', b"\0\x01\0\0\0\x05abc"),
            message(b'D', b"\0\x01\xff\xff\xff\xfe"),
        ] {
            assert!(take(&mut bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stream_is_wal_and_keepalives() {
        let wal = |start: u64, bytes: &[u8]| {
            let mut data = BytesMut::new();
            data.put_u8(b'w');
            data.put_u64(start);
            data.put_u64(1 << 40);
            data.put_i64(7);
            data.put_slice(bytes);
            data.freeze()
        };
        let bytes = Bytes::from_static(b"abc");
        let start = Lsn(0x0300_0000);
        assert_eq!(
            event(&wal(start.0, b"abc")),
            Some(Event::Wal { start, bytes })
        );
        assert_eq!(event(&wal(u64::MAX - 1, b"abc")), None);
        let mut data = BytesMut::from(&b"k"[..]);
        data.put_u64(9);
        data.put_i64(7);
        assert_eq!(event(&data.clone().freeze()), None);
        data.put_u8(1);
        let expected = Event::Keepalive {
            sent: Lsn(9),
            reply_now: true,
        };
        assert_eq!(event(&data.clone().freeze()), Some(expected));
        data.put_u8(1);
        assert_eq!(event(&data.freeze()), None);
        for nothing in [&b""[..], b"w", b"z123"] {
            assert_eq!(event(&Bytes::copy_from_slice(nothing)), None);
        }
    }

    #[test]
    fn a_status_is_as_postgres_reads_it() {
        let mut out = BytesMut::new();
        let position = Position {
            written: Lsn(1),
            flushed: Lsn(2),
        };
        status(position, PgTimestamp(3), &mut out);
        let Some(Incoming::CopyData(data)) = take(&mut out).unwrap() else {
            panic!("{out:?}");
        };
        let numbers: Vec<u64> = data[1..33]
            .chunks(8)
            .map(|n| u64::from_be_bytes(n.try_into().unwrap()))
            .collect();
        assert_eq!(
            (data[0], numbers, data[33], data.len()),
            (b'r', vec![1, 2, 0, 3], 1, 34)
        );
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(message)) = take(&mut buffer) {
                if let Incoming::CopyData(data) = message {
                    let _ = event(&data);
                }
            }
            let _ = event(&Bytes::from(bytes));
        }
    }
}
