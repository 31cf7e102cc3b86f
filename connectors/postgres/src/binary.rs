//! Whether the stream has its values in text or in binary format.
//!
//! ```text
//! [source] binary, the codecs of all columns ──▶ chosen at each start of the stream
//!                         a type without codec, met while streaming ──▶ text from then on
//! ```
//!
//! The invariant: the stream is never begun again in a format that it has failed in, so what cannot
//! be read in binary costs one reconnection and no row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::{Error, ErrorKind};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::PostgresConfig;
use crate::value::Codec;

/// `undefined_function`: an array whose elements have no binary form.
pub(crate) const NO_BINARY_FORM: &str = "42883";

/// `[source] binary`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinaryFormat {
    /// Where every type can be read in it, and there is one that gains.
    #[default]
    Auto,
    /// Where every type can be read in it.
    Always,
    /// Text.
    Never,
}

impl<'de> Deserialize<'de> for BinaryFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = BinaryFormat;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E>(self, is_binary: bool) -> Result<BinaryFormat, E> {
                Ok(if is_binary { BinaryFormat::Always } else { BinaryFormat::Never })
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<BinaryFormat, E> {
                match word {
                    "auto" => Ok(BinaryFormat::Auto),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Remembers over reconnections, and over sources with the same figures, that binary has failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextOnly(Arc<AtomicBool>);

impl TextOnly {
    /// Whether to begin the stream in binary; `codecs` are those of all columns in it.
    pub(crate) fn chooses_binary(&self, config: &PostgresConfig, codecs: &[Codec]) -> bool {
        let binary = config.columns.is_empty() && self.reads_binary(config, codecs);
        if config.binary == BinaryFormat::Always && !binary {
            tracing::warn!("the stream is in text: not every column can be read in binary format");
        }
        binary
    }

    /// Whether rows of these columns are read in binary. What is masked is masked by its text.
    pub(crate) fn reads_binary(&self, config: &PostgresConfig, codecs: &[Codec]) -> bool {
        let wanted = match config.binary {
            BinaryFormat::Never => false,
            BinaryFormat::Always => true,
            BinaryFormat::Auto => codecs.iter().any(Codec::gains_by_binary),
        };
        wanted && !self.0.load(Ordering::Relaxed) && codecs.iter().all(Codec::is_binary)
    }

    /// The stream has to begin again, in text.
    pub(crate) fn fall_back(&self, why: String) -> Error {
        self.0.store(true, Ordering::Relaxed);
        Error::new(ErrorKind::Transient, "read the stream in binary format, so again in text")
            .with_source(why)
    }
}
