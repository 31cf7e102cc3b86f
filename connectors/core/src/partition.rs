//! Which partition of a topic a key belongs to: Kafka's own rule, over bytes that never change.

/// The partition of a topic with `count` partitions, at least 1, that holds the rows of a key.
///
/// `key` is the Avro of the key record without its 5-byte header: schema ids change, keys do not.
/// The rule is that of Kafka's default partitioner.
#[must_use]
pub fn partition(key: &[u8], count: i32) -> i32 {
    let positive = (murmur2(key) & 0x7FFF_FFFF).cast_signed();
    positive % count.max(1)
}

/// MurmurHash2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const MIX: u32 = 0x5BD1_E995;
    const SHIFT: u32 = 24;
    // Kafka's arrays are shorter than 2^31 bytes, and so are ours.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MIX);
        word ^= word >> SHIFT;
        hash = hash.wrapping_mul(MIX) ^ word.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `UtilsTest.testMurmur2` in Apache Kafka.
    #[test]
    fn murmur2_is_kafkas() {
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), expected, "{text}");
        }
    }

    #[test]
    fn the_sign_is_masked_not_negated() {
        assert_eq!(partition(b"21", 8), (-973_932_308_i32 & 0x7FFF_FFFF) % 8);
        assert_eq!(partition(b"", 1), 0);
    }
}
