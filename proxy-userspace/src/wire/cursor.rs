//! Reads a body's fields one after the other, without ever going beyond its end.

/// Why a body is not one: what PostgreSQL calls "invalid message format" (src/backend/libpq/pqformat.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The body ends before the field does.
    #[error("insufficient data left in message")]
    Short,
    /// Bytes are left behind the last field.
    #[error("bytes behind the last field")]
    Trailing,
    /// A field has a value it cannot have.
    #[error("a field has a value that it cannot have")]
    Value,
    /// No message has this type.
    #[error("unknown message type")]
    Type,
}

/// A place in a body.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    /// Two bytes; PostgreSQL reads counts as unsigned.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Two bytes, signed.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    /// Four bytes, unsigned.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes, signed.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// The bytes up to a NUL, which is skipped.
    ///
    /// # Errors
    /// When there is no NUL.
    pub fn c_string(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed::Short)?;
        let text = self.bytes(end)?;
        self.byte()?;
        Ok(text)
    }

    /// A value with its length before it; `None` is NULL.
    ///
    /// # Errors
    /// When the length is below -1, or more than is left.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed::Value)?;
                self.bytes(length).map(Some)
            }
        }
    }

    /// A count and so many format codes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn formats(&mut self) -> Result<Vec<i16>, Malformed> {
        self.list(Self::i16)
    }

    /// A count and so many OIDs.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn oids(&mut self) -> Result<Vec<u32>, Malformed> {
        self.list(Self::u32)
    }

    /// A count and so many values.
    ///
    /// # Errors
    /// When fewer are left, or a length cannot be.
    pub fn values(&mut self) -> Result<Vec<Option<&'a [u8]>>, Malformed> {
        self.list(Self::value)
    }

    /// A count and so many elements. What is allocated grows with what is read, not with what the count promises.
    ///
    /// # Errors
    /// Those of `element`.
    pub fn list<T>(
        &mut self,
        element: impl Fn(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u16()?;
        (0..count).map(|_| element(self)).collect()
    }

    /// Checks that everything has been read.
    ///
    /// # Errors
    /// When something has not.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order_and_nothing_beyond_the_end() {
        let mut cursor = Cursor::new(b"ab\0\0\x02\0\0\0\x01x\xff\xff\xff\xff!");
        assert_eq!(cursor.c_string(), Ok(b"ab".as_slice()));
        assert_eq!(cursor.u16(), Ok(2));
        assert_eq!(cursor.value(), Ok(Some(b"x".as_slice())));
        assert_eq!(cursor.value(), Ok(None));
        assert_eq!(cursor.end(), Err(Malformed::Trailing));
        assert_eq!(cursor.u32(), Err(Malformed::Short));
        assert_eq!(cursor.byte(), Ok(b'!'));
        assert_eq!(cursor.end(), Ok(()));
        assert_eq!(cursor.c_string(), Err(Malformed::Short));
    }

    #[test]
    fn a_length_below_minus_one_is_refused() {
        assert_eq!(
            Cursor::new(&[0xff, 0xff, 0xff, 0xfe]).value(),
            Err(Malformed::Value)
        );
        assert_eq!(
            Cursor::new(&[0x7f, 0xff, 0xff, 0xff]).value(),
            Err(Malformed::Short)
        );
    }
}
