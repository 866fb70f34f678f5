//! The transaction status that ReadyForQuery carries.
//!
//! A closed set: a byte outside of it is a broken server, never a fourth state.

/// Where a session stands after a ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// `I`: in no transaction block; the only status in which a server may change hands.
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a failed transaction block, which takes nothing but its end.
    Failed,
}

impl TransactionStatus {
    /// The status of a byte, or `None` if the protocol knows no such status.
    #[inline]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte that stands for it on the wire.
    #[inline]
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}
