//! Binary values as the text that PostgreSQL prints for them.

use std::fmt::Write;

use super::ValueError;
use super::binary::fixed;
use super::codec::Spelling;
use super::number::Numeric;
use crate::fields::Fields;

/// Address families of a binary `inet`.
const IPV4: u8 = 2;
const IPV6: u8 = 3;

/// Appends `bytes` as text.
pub(super) fn spell(out: &mut String, spelling: Spelling, bytes: &[u8]) -> Result<(), ValueError> {
    match spelling {
        Spelling::Numeric => Numeric::of_binary(bytes)?.spell(out),
        Spelling::Unsigned64 => {
            let number = u64::from_be_bytes(fixed(bytes, "xid8")?);
            out.push_str(itoa::Buffer::new().format(number));
        }
        Spelling::Lsn => {
            let lsn = u64::from_be_bytes(fixed(bytes, "pg_lsn")?);
            format(out, format_args!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF));
        }
        Spelling::TimeTz => timetz(out, bytes).ok_or(ValueError::Malformed("timetz"))?,
        Spelling::Inet => inet(out, bytes).ok_or(ValueError::Malformed("inet"))?,
        Spelling::MacAddr => {
            for (place, byte) in bytes.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { ":" });
                format(out, format_args!("{byte:02x}"));
            }
        }
        Spelling::Bits => bits(out, bytes).ok_or(ValueError::Malformed("bit"))?,
    }
    Ok(())
}

/// Writing to a string cannot fail.
fn format(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).unwrap_or_default();
}

/// `04:05:06.789-15:59:59`: the zone is sent as seconds west of Greenwich.
fn timetz(out: &mut String, bytes: &[u8]) -> Option<()> {
    let mut fields = Fields::new(bytes);
    let (micros, west) = (u64::try_from(fields.i64()?).ok()?, fields.i32()?);
    let seconds = micros / 1_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format(out, format_args!("{hours:02}:{minutes:02}:{:02}", seconds % 60));
    let fraction = micros % 1_000_000;
    if fraction > 0 {
        format(out, format_args!(".{fraction:06}"));
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push(if west <= 0 { '+' } else { '-' });
    let offset = west.unsigned_abs();
    format(out, format_args!("{:02}", offset / 3600));
    if offset % 3600 > 0 {
        format(out, format_args!(":{:02}", offset / 60 % 60));
    }
    if offset % 60 > 0 {
        format(out, format_args!(":{:02}", offset % 60));
    }
    fields.rest().is_empty().then_some(())
}

fn inet(out: &mut String, bytes: &[u8]) -> Option<()> {
    let [family, bits, is_cidr, _length, address @ ..] = bytes else { return None };
    let full_bits = match *family {
        IPV4 => {
            dotted(out, address.try_into().ok()?);
            32
        }
        IPV6 => {
            ipv6(out, address.try_into().ok()?);
            128
        }
        _ => return None,
    };
    if *bits != full_bits || *is_cidr != 0 {
        format(out, format_args!("/{bits}"));
    }
    Some(())
}

fn dotted(out: &mut String, [a, b, c, d]: [u8; 4]) {
    format(out, format_args!("{a}.{b}.{c}.{d}"));
}

/// As `inet_net_ntop` prints it: the longest run of zeros, the first if there are several, is `::`;
/// what may be an IPv4 address within has dots.
fn ipv6(out: &mut String, address: [u8; 16]) {
    let (pairs, _) = address.as_chunks::<2>();
    let words: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    let run = longest_run_of_zeros(&words);
    let [.., a, b, c, d] = address;
    let is_mapped = run.len() == 5 && words.get(5) == Some(&0xFFFF);
    let has_ipv4 = run.start == 0 && (run.len() == 6 || is_mapped);
    for (place, word) in words.iter().enumerate() {
        if run.contains(&place) {
            out.push_str(if place == run.start { ":" } else { "" });
            continue;
        }
        out.push_str(if place > 0 { ":" } else { "" });
        if place == 6 && has_ipv4 {
            return dotted(out, [a, b, c, d]);
        }
        format(out, format_args!("{word:x}"));
    }
    if !run.is_empty() && run.end == words.len() {
        out.push(':');
    }
}

/// At least two words; else nothing, at a place beyond all words.
fn longest_run_of_zeros(words: &[u16]) -> std::ops::Range<usize> {
    let none = words.len()..words.len();
    let mut best = none.clone();
    let mut start = 0;
    for run in words.chunk_by(|one, next| (*one == 0) == (*next == 0)) {
        let end = start + run.len();
        if run.first() == Some(&0) && run.len() > best.len() {
            best = start..end;
        }
        start = end;
    }
    if best.len() < 2 { none } else { best }
}

fn bits(out: &mut String, bytes: &[u8]) -> Option<()> {
    let mut fields = Fields::new(bytes);
    let count = fields.length()?;
    let bytes = fields.rest();
    if bytes.len() != count.div_ceil(8) {
        return None;
    }
    let bit = |place: usize| bytes.get(place / 8).map(|byte| byte << (place % 8) & 0x80 != 0);
    out.extend((0..count).filter_map(bit).map(|set| if set { '1' } else { '0' }));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(spelling: Spelling, bytes: &[u8]) -> String {
        let mut out = String::new();
        spell(&mut out, spelling, bytes).unwrap();
        out
    }

    #[test]
    fn addresses_are_spelt_as_postgresql_spells_them() {
        let v6 = |words: [u16; 8], bits| {
            let words = words.iter().flat_map(|word| word.to_be_bytes());
            let bytes: Vec<u8> = [IPV6, bits, 0, 16].into_iter().chain(words).collect();
            spelt(Spelling::Inet, &bytes)
        };
        let cases = [
            ([0; 8], "::"),
            ([0, 0, 0, 0, 0, 0, 0, 1], "::1"),
            ([0, 0, 0, 0, 0, 0, 0, 2], "::2"),
            ([0, 0, 0, 0, 0, 0, 0x102, 0x304], "::1.2.3.4"),
            ([0, 0, 0, 0, 0, 0xFFFF, 0x102, 0x304], "::ffff:1.2.3.4"),
            ([0x2001, 0xDB8, 0, 0, 1, 0, 0, 1], "2001:db8::1:0:0:1"),
            ([0x2001, 0xDB8, 0, 1, 1, 1, 1, 1], "2001:db8:0:1:1:1:1:1"),
            ([1, 0, 0, 0, 0, 0, 0, 0], "1::"),
        ];
        for (words, text) in cases {
            assert_eq!(v6(words, 128), text);
        }
        assert_eq!(v6([0xFE80, 0, 0, 0, 0, 0, 0, 0], 10), "fe80::/10");
        assert_eq!(spelt(Spelling::Inet, &[IPV4, 8, 0, 4, 10, 1, 2, 3]), "10.1.2.3/8");
        assert_eq!(spelt(Spelling::Inet, &[IPV4, 32, 0, 4, 10, 1, 2, 3]), "10.1.2.3");
        assert_eq!(spelt(Spelling::Inet, &[IPV4, 32, 1, 4, 10, 1, 2, 3]), "10.1.2.3/32");
        assert!(spell(&mut String::new(), Spelling::Inet, &[IPV4, 32, 0, 4, 1]).is_err());
    }

    #[test]
    fn zones_have_as_much_as_they_need() {
        let of = |micros: i64, west: i32| {
            let bytes = [&micros.to_be_bytes()[..], &west.to_be_bytes()].concat();
            spelt(Spelling::TimeTz, &bytes)
        };
        assert_eq!(of(0, 57_599), "00:00:00-15:59:59");
        assert_eq!(of(86_400_000_000, 0), "24:00:00+00");
        assert_eq!(of(14_706_789_000, -20_700), "04:05:06.789+05:45");
        assert_eq!(spelt(Spelling::Bits, &[0, 0, 0, 3, 0xA0]), "101");
        assert_eq!(spelt(Spelling::Lsn, &0x16_B374_D848_u64.to_be_bytes()), "16/B374D848");
    }
}
