//! Bytes of the fuzzer as what a server could send: mostly well-formed messages, in any order.

use bytes::{BufMut, BytesMut};

use crate::fields::Fields;

/// Builds the server's side of a stream.
#[derive(Default)]
pub(super) struct Script {
    out: BytesMut,
    in_block: bool,
}

impl Script {
    /// Everything that `fields` describe, framed.
    pub(super) fn run(mut self, mut fields: Fields<'_>) -> BytesMut {
        while self.step(&mut fields).is_some() {}
        self.out
    }

    fn step(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        let op = fields.u8()?;
        let mut message = BytesMut::new();
        match op % 16 {
            0 => begin(&mut message, fields)?,
            1 => self.commit(&mut message, fields)?,
            2..=4 => self.row(&mut message, op, fields)?,
            5 => self.relation(&mut message, fields)?,
            6 => self.truncate(&mut message, fields)?,
            7 => self.logical(&mut message, fields)?,
            8 => {
                let (xid, first) = (fields.u8()?, fields.u8()?);
                message.put_slice(&[b'S', 0, 0, 0, xid, first & 1]);
                self.in_block = true;
            }
            9 => {
                message.put_u8(b'E');
                self.in_block = false;
            }
            10 => {
                message.put_slice(&[b'c', 0, 0, 0, fields.u8()?]);
                commit(&mut message, fields)?;
            }
            11 => message.put_slice(&[b'A', 0, 0, 0, fields.u8()?, 0, 0, 0, fields.u8()?]),
            12 => return self.keepalive(fields),
            13 => message.put_slice(raw(fields)?),
            14 => {
                self.out.put_slice(raw(fields)?);
                return Some(());
            }
            _ => message.put_slice(b"O\0\0\0\0\0\0\0\0there\0"),
        }
        self.frame(b'w', 24, &message);
        Some(())
    }

    fn frame(&mut self, kind: u8, header: usize, body: &[u8]) {
        let length = 4 + 1 + header + body.len();
        self.out.put_u8(b'd');
        self.out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        self.out.put_u8(kind);
        self.out.put_bytes(0, header);
        self.out.put_slice(body);
    }

    fn keepalive(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        let mut body = BytesMut::new();
        body.put_u64(lsn(fields)?);
        body.put_bytes(0, 9);
        self.frame(b'k', 0, &body);
        Some(())
    }

    /// A tag, and the id that it has within a block.
    fn tag(&self, out: &mut BytesMut, tag: u8, fields: &mut Fields<'_>) -> Option<()> {
        out.put_u8(tag);
        if self.in_block {
            out.put_u32(fields.u8()?.into());
        }
        Some(())
    }

    fn commit(&mut self, out: &mut BytesMut, fields: &mut Fields<'_>) -> Option<()> {
        out.put_u8(b'C');
        commit(out, fields)
    }

    fn row(&mut self, out: &mut BytesMut, op: u8, fields: &mut Fields<'_>) -> Option<()> {
        let tag = match op % 16 {
            2 => b'I',
            3 => b'U',
            _ => b'D',
        };
        self.tag(out, tag, fields)?;
        out.put_u32(oid(fields)?);
        let old = match fields.u8()? % 3 {
            0 => Some(b'K'),
            1 => Some(b'O'),
            _ => None,
        };
        if tag != b'I'
            && let Some(old) = old
        {
            tuple(out, old, fields)?;
        }
        if tag != b'D' {
            tuple(out, b'N', fields)?;
        }
        Some(())
    }

    fn relation(&mut self, out: &mut BytesMut, fields: &mut Fields<'_>) -> Option<()> {
        self.tag(out, b'R', fields)?;
        out.put_u32(oid(fields)?);
        out.put_slice(b"shop\0orders\0d");
        let columns: [&[u8]; 4] = [
            b"\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF",
            b"\0note\0\0\0\0\x19\xFF\xFF\xFF\xFF",
            b"\0price\0\0\0\0\x14\xFF\xFF\xFF\xFF",
            b"\0seen\0\0\0\x04\xA0\xFF\xFF\xFF\xFF",
        ];
        let count = fields.u8()? % 5;
        out.put_u16(count.into());
        columns.iter().take(count.into()).for_each(|column| out.put_slice(column));
        Some(())
    }

    fn truncate(&mut self, out: &mut BytesMut, fields: &mut Fields<'_>) -> Option<()> {
        self.tag(out, b'T', fields)?;
        let count = fields.u8()? % 4;
        out.put_u32(count.into());
        out.put_u8(3);
        for _ in 0..count {
            out.put_u32(oid(fields)?);
        }
        Some(())
    }

    fn logical(&mut self, out: &mut BytesMut, fields: &mut Fields<'_>) -> Option<()> {
        self.tag(out, b'M', fields)?;
        out.put_u8(fields.u8()? & 1);
        out.put_u64(lsn(fields)?);
        out.put_slice(b"theirs\0\0\0\0\x01x");
        Some(())
    }
}

fn begin(out: &mut BytesMut, fields: &mut Fields<'_>) -> Option<()> {
    out.put_u8(b'B');
    out.put_u64(lsn(fields)?);
    out.put_i64(0);
    out.put_u32(fields.u8()?.into());
    Some(())
}

fn commit(out: &mut BytesMut, fields: &mut Fields<'_>) -> Option<()> {
    let lsn = lsn(fields)?;
    out.put_u8(0);
    out.put_u64(lsn);
    out.put_u64(lsn + u64::from(fields.u8()?));
    out.put_i64(0);
    Some(())
}

fn tuple(out: &mut BytesMut, tag: u8, fields: &mut Fields<'_>) -> Option<()> {
    let count = fields.u8()? % 5;
    out.put_u8(tag);
    out.put_u16(count.into());
    for _ in 0..count {
        match fields.u8()? {
            0 => out.put_u8(b'n'),
            1 => out.put_u8(b'u'),
            number => {
                let text = number.to_string();
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).unwrap_or_default());
                out.put_slice(text.as_bytes());
            }
        }
    }
    Some(())
}

/// One of three tables, the first of which is ours.
fn oid(fields: &mut Fields<'_>) -> Option<u32> {
    Some(7 + u32::from(fields.u8()? % 3))
}

fn lsn(fields: &mut Fields<'_>) -> Option<u64> {
    Some(u64::from(fields.u16()?) * 8)
}

fn raw<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = fields.u8()?;
    fields.take(length.into())
}
