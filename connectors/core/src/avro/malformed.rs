//! What can be wrong with the bytes of a record.

/// Why bytes are not the record that the schema says they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The record goes on after its end.
    #[error("it ends in the middle of a value")]
    Truncated,
    /// The record ends before its end.
    #[error("bytes follow its last field")]
    Trailing,
    /// A varint does not fit.
    #[error("a number does not fit its type")]
    Number,
    /// A `boolean` that is neither 0 nor 1.
    #[error("a boolean is neither 0 nor 1")]
    Boolean,
    /// A union branch that is neither null nor the value.
    #[error("a union has no such branch")]
    Branch,
    /// A length or count below zero.
    #[error("a length is negative")]
    Length,
    /// Text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A decimal with more digits than its column.
    #[error("a decimal has more digits than its column")]
    Decimal,
    /// A batch with more than 2 GiB in a column.
    #[error("a column of the batch is over 2 GiB")]
    Oversize,
    /// An `op` that is not one of ours.
    #[error("its op is unknown, so it was written by a newer release or by another program")]
    Op,
    /// Row images that do not go with the `op`.
    #[error("its row images do not go with its op")]
    Images,
    /// A position outside the range of its fields.
    #[error("its position is out of range")]
    Position,
    /// Not the Confluent wire format.
    #[error("it does not start with 0 and a schema id")]
    Header,
}
