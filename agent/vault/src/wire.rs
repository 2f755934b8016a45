//! Reading and writing the binary parts of the format: LEB128 numbers and fixed fields.

/// Stored bytes that authenticate but make no sense, or that come from a newer version.
#[derive(Debug, thiserror::Error)]
#[error("it is malformed: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Appends an unsigned LEB128 number.
pub(crate) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes fields from the front of a byte slice.
#[derive(Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed("a number is cut off"))?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("a number is too large"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    /// A number that counts or indexes things of which there are fewer than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> Result<usize, Malformed> {
        let value = self.number()?;
        if value < limit { Ok(value as usize) } else { Err(Malformed("a number is out of range")) }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("a field is cut off"))?;
        self.0 = rest;
        Ok(*array)
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes follow its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, value);
            let mut fields = Fields::new(&out);
            assert_eq!(fields.number().unwrap(), value);
            fields.end().unwrap();
        }
    }

    #[test]
    fn endless_and_oversized_numbers_are_refused() {
        assert!(Fields::new(&[0xff; 20]).number().is_err());
        assert!(Fields::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).number().is_err());
        assert!(Fields::new(&[0x80]).number().is_err());
        assert!(Fields::new(&[5]).below(5).is_err());
    }
}
