//! Bytes that were written as numbers: the kernel and fstab write `\040` for a space, lsblk `\x20`.

/// How bytes are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Escapes {
    /// `\NNN`.
    Octal,
    /// `\xNN`.
    Hexadecimal,
}

impl Escapes {
    const fn form(self) -> (&'static [u8], usize, u32) {
        match self {
            Self::Octal => (b"\\", 3, 8),
            Self::Hexadecimal => (b"\\x", 2, 16),
        }
    }

    /// Turns the numbers into bytes; what is no number stays as it is.
    pub(crate) fn decode(self, text: &[u8]) -> Vec<u8> {
        let (mark, digits, radix) = self.form();
        let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
        while let Some((first, after)) = rest.split_first() {
            let number = rest.strip_prefix(mark).and_then(|escape| escape.get(..digits));
            let number = number.and_then(|number| str::from_utf8(number).ok());
            if let Some(byte) = number.and_then(|number| u8::from_str_radix(number, radix).ok()) {
                bytes.push(byte);
                rest = &rest[mark.len() + digits..];
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        bytes
    }

    /// The same for text; bytes that are no UTF-8 are replaced.
    pub(crate) fn decode_text(self, text: &str) -> String {
        String::from_utf8_lossy(&self.decode(text.as_bytes())).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_bytes_and_the_rest_stays() {
        assert_eq!(Escapes::Octal.decode(b"/a\\040b\\134c\\012/\\9\\777\\04"), b"/a b\\c\n/\\9\\777\\04");
        assert_eq!(Escapes::Hexadecimal.decode_text("E\\x20S\\xc3\\xbc\\xzz\\x"), "E Sü\\xzz\\x");
    }
}
