//! Deletion vectors: which rows of a data file are gone.
//!
//! ```text
//! file:  01 │ length (4, BE) │ body │ CRC-32 of body (4, BE) │ length │ body │ CRC-32 │ …
//! body:  magic 1681511377 (4, LE) │ 64-bit roaring bitmap, portable form
//! ```
//!
//! A vector once written never changes: a commit that removes more rows of a file writes a new
//! vector with all of them, into one new file for all vectors of the commit.

use bytes::Bytes;
use deltalake::kernel::{DeletionVectorDescriptor, StorageType};
use roaring::{RoaringBitmap, RoaringTreemap};
use uuid::Uuid;

/// The first byte of a file of vectors.
const FORMAT: u8 = 1;
/// What a body begins with.
const MAGIC: u32 = 1_681_511_377;
/// Bytes of a length, a magic number and a checksum.
const WORD: usize = 4;
/// Characters of z85 that hold a UUID: what stands before them is a folder.
const UUID_CHARS: usize = 20;

/// Why a vector cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadVector {
    #[error("the descriptor of a deletion vector is malformed: {0}")]
    Descriptor(String),
    #[error("a deletion vector lies outside of the table, at {0:?}")]
    Outside(String),
    #[error("a deletion vector is malformed: {0}")]
    Body(String),
    #[error("a deletion vector does not fit its checksum")]
    Checksum,
    #[error("a deletion vector holds {found} rows, its descriptor says {expected}")]
    Cardinality { found: u64, expected: i64 },
}

/// The vectors of one commit, as one file.
#[derive(Debug)]
pub(crate) struct VectorFile {
    id: Uuid,
    bytes: Vec<u8>,
}

/// Where the bytes of a vector are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the descriptor itself: the body.
    Inline(Vec<u8>),
    /// In a file of the table: `length` bytes from `offset`, to be given to [`unframe`].
    File { path: String, offset: u64, length: u64 },
}

impl VectorFile {
    pub(crate) fn new(id: Uuid) -> Self {
        Self { id, bytes: vec![FORMAT] }
    }

    /// Adds the vector of `rows`, and says how a file's `Add` names it.
    pub(crate) fn push(
        &mut self,
        rows: &RoaringBitmap,
    ) -> Result<DeletionVectorDescriptor, BadVector> {
        let body = encode(rows)?;
        let too_large = |_| BadVector::Body(format!("{} bytes are too many", body.len()));
        let offset = i32::try_from(self.bytes.len()).map_err(too_large)?;
        let length = u32::try_from(body.len()).map_err(too_large)?;
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&body);
        self.bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        Ok(DeletionVectorDescriptor {
            storage_type: StorageType::UuidRelativePath,
            path_or_inline_dv: z85::encode(self.id.as_bytes()),
            offset: Some(offset),
            size_in_bytes: i32::try_from(body.len()).map_err(too_large)?,
            cardinality: i64::try_from(rows.len()).map_err(too_large)?,
        })
    }

    /// The path from the table's root, and the content.
    pub(crate) fn finish(self) -> (String, Bytes) {
        (file_name(self.id), self.bytes.into())
    }
}

fn file_name(id: Uuid) -> String {
    format!("deletion_vector_{id}.bin")
}

/// Finds the bytes that `descriptor` speaks of.
pub(crate) fn locate(descriptor: &DeletionVectorDescriptor) -> Result<Place, BadVector> {
    let text = descriptor.path_or_inline_dv.as_str();
    let malformed = || BadVector::Descriptor(text.to_owned());
    let size = usize::try_from(descriptor.size_in_bytes).map_err(|_| malformed())?;
    match descriptor.storage_type {
        StorageType::Inline => {
            let mut body = z85::decode(text).map_err(|_| malformed())?;
            if body.len() < size {
                return Err(malformed());
            }
            body.truncate(size);
            Ok(Place::Inline(body))
        }
        StorageType::UuidRelativePath => {
            let split = text.len().checked_sub(UUID_CHARS).ok_or_else(malformed)?;
            let (folder, id) = text.split_at_checked(split).ok_or_else(malformed)?;
            let id = z85::decode(id).map_err(|_| malformed())?;
            let name = file_name(Uuid::from_slice(&id).map_err(|_| malformed())?);
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let offset = u64::try_from(descriptor.offset.unwrap_or(1)).map_err(|_| malformed())?;
            let length = u64::try_from(size + 2 * WORD).map_err(|_| malformed())?;
            Ok(Place::File { path, offset, length })
        }
        StorageType::AbsolutePath => Err(BadVector::Outside(text.to_owned())),
    }
}

/// Takes the body out of its length and its checksum.
pub(crate) fn unframe(framed: &[u8]) -> Result<&[u8], BadVector> {
    let short = || BadVector::Body(format!("only {} bytes", framed.len()));
    let (length, rest) = framed.split_first_chunk::<WORD>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| short())?;
    let (body, rest) = rest.split_at_checked(length).ok_or_else(short)?;
    let checksum = rest.first_chunk::<WORD>().ok_or_else(short)?;
    if crc32fast::hash(body) == u32::from_be_bytes(*checksum) {
        Ok(body)
    } else {
        Err(BadVector::Checksum)
    }
}

fn encode(rows: &RoaringBitmap) -> Result<Vec<u8>, BadVector> {
    let wide = RoaringTreemap::from_bitmaps([(0, rows.clone())]);
    let mut body = MAGIC.to_le_bytes().to_vec();
    wide.serialize_into(&mut body).map_err(|error| BadVector::Body(error.to_string()))?;
    Ok(body)
}

/// Reads a body.
pub(crate) fn decode(
    body: &[u8],
    descriptor: &DeletionVectorDescriptor,
) -> Result<RoaringBitmap, BadVector> {
    let (magic, bitmap) =
        body.split_first_chunk::<WORD>().ok_or_else(|| BadVector::Body("empty".to_owned()))?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err(BadVector::Body("unknown magic number".to_owned()));
    }
    let wide = RoaringTreemap::deserialize_from(bitmap)
        .map_err(|error| BadVector::Body(error.to_string()))?;
    if u64::try_from(descriptor.cardinality).ok() != Some(wide.len()) {
        let expected = descriptor.cardinality;
        return Err(BadVector::Cardinality { found: wide.len(), expected });
    }
    let mut rows = RoaringBitmap::new();
    for (high, low) in wide.bitmaps() {
        if high != 0 && !low.is_empty() {
            return Err(BadVector::Body("a row number beyond 2^32".to_owned()));
        }
        rows |= low;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows 3, 4, 7, 11, 18 and 29.
    const EXAMPLE: &str = "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L";

    fn read(file: &Bytes, descriptor: &DeletionVectorDescriptor) -> RoaringBitmap {
        let Place::File { offset, length, .. } = locate(descriptor).unwrap() else {
            panic!("a file");
        };
        let from = usize::try_from(offset).unwrap();
        let framed = file.slice(from..from + usize::try_from(length).unwrap());
        decode(unframe(&framed).unwrap(), descriptor).unwrap()
    }

    #[test]
    fn every_vector_of_a_file_reads_back() {
        let sets: [RoaringBitmap; 4] = [
            RoaringBitmap::new(),
            [7].into_iter().collect(),
            (0..200_000).step_by(3).collect(),
            [0, u32::MAX].into_iter().collect(),
        ];
        let mut file = VectorFile::new(Uuid::from_u128(0x1234));
        let descriptors: Vec<_> = sets.iter().map(|rows| file.push(rows).unwrap()).collect();
        let (path, bytes) = file.finish();
        assert_eq!(path, "deletion_vector_00000000-0000-0000-0000-000000001234.bin");
        for (rows, descriptor) in sets.iter().zip(&descriptors) {
            assert_eq!(&read(&bytes, descriptor), rows);
            assert_eq!(descriptor.cardinality, i64::try_from(rows.len()).unwrap());
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut file = VectorFile::new(Uuid::from_u128(0xd2c6_39aa_8816_431a_aaf6_d3fe_2512_ff61));
        let descriptor = file.push(&[3, 4, 7, 11, 18, 29].into_iter().collect()).unwrap();
        let (path, bytes) = file.finish();
        // The file's name is the protocol's example, the vector is that of the kernel's tests.
        assert_eq!(descriptor.path_or_inline_dv, "^-aqEH.-t@S}K{vb[*k^");
        assert_eq!(path, "deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin");
        assert_eq!((descriptor.offset, descriptor.size_in_bytes), (Some(1), 44));
        assert_eq!(&bytes[..5], [1, 0, 0, 0, 44]);
        assert_eq!(z85::encode(&bytes[5..49]), EXAMPLE);
        assert_eq!(&bytes[49..], 0xacd7_4a79_u32.to_be_bytes());
    }

    #[test]
    fn an_inline_vector_and_a_folder_are_understood() {
        let inline = DeletionVectorDescriptor {
            storage_type: StorageType::Inline,
            path_or_inline_dv: EXAMPLE.to_owned(),
            offset: None,
            size_in_bytes: 44,
            cardinality: 6,
        };
        let Place::Inline(body) = locate(&inline).unwrap() else { panic!("inline") };
        assert_eq!(decode(&body, &inline).unwrap(), [3, 4, 7, 11, 18, 29].into_iter().collect());
        let in_folder = DeletionVectorDescriptor {
            storage_type: StorageType::UuidRelativePath,
            path_or_inline_dv: "ab^-aqEH.-t@S}K{vb[*k^".to_owned(),
            offset: Some(4),
            ..inline
        };
        let path = "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin".to_owned();
        assert_eq!(locate(&in_folder).unwrap(), Place::File { path, offset: 4, length: 52 });
    }

    #[test]
    fn damage_is_found() {
        let mut file = VectorFile::new(Uuid::from_u128(1));
        let descriptor = file.push(&(0..10).collect()).unwrap();
        let (_, bytes) = file.finish();
        let framed = &bytes[1..];
        for place in 0..framed.len() {
            let mut damaged = framed.to_vec();
            damaged[place] ^= 1;
            let read = unframe(&damaged).and_then(|body| decode(body, &descriptor));
            assert!(read.is_err(), "byte {place}");
        }
        assert!(unframe(&framed[..framed.len() - 1]).is_err());
        let wrong = DeletionVectorDescriptor { cardinality: 11, ..descriptor };
        assert!(decode(unframe(framed).unwrap(), &wrong).is_err());
    }
}
