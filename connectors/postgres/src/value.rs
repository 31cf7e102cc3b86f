//! One value: from PostgreSQL's text or binary form to Avro.
//!
//! ```text
//! t b"2026-07-01"   ──┐
//!                     ├─ Codec::Date ──▶ int 20635
//! b 00 00 25 db     ──┘
//! ```
//!
//! The invariants: both forms of a value become the same bytes; and a value that its type cannot
//! hold is never another value or a null without being counted.

mod binary;
mod codec;
mod context;
mod interval;
mod literal;
mod misfit;
mod number;
mod spelling;
mod split;
mod text;
mod time;

#[cfg(test)]
mod tests;

use crate::pgoutput::Value;
pub(crate) use codec::{Codec, Part, Spelling};
pub(crate) use context::Context;
pub(crate) use literal::literal;
pub use misfit::{Misfit, Policy, ValuePolicies};

/// Why a value cannot be written. The value itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("it is not what PostgreSQL writes for {0}")]
    Malformed(&'static str),
    #[error("it holds {0}")]
    Misfit(Misfit),
    #[error("its type has no binary form that is known here")]
    NoBinary,
    #[error("the key is null")]
    NullKey,
}

/// Appends `value` with a branch before it.
pub(crate) fn write_optional(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    value: Value<'_>,
) -> Result<(), ValueError> {
    match value {
        Value::Text(text) => {
            context.optional(out, |context, out| text::write_text(context, out, codec, text))
        }
        Value::Binary(bytes) => {
            context.optional(out, |context, out| binary::write_binary(context, out, codec, bytes))
        }
        Value::Null | Value::Unchanged => {
            anabranch_core::avro::write::null_branch(out);
            Ok(())
        }
    }
}

/// Appends `value` without a branch: one of a key.
pub(crate) fn write_required(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    value: Value<'_>,
) -> Result<(), ValueError> {
    match value {
        Value::Text(text) => text::write_text(context, out, codec, text),
        Value::Binary(bytes) => binary::write_binary(context, out, codec, bytes),
        Value::Null | Value::Unchanged => Err(ValueError::NullKey),
    }
}
