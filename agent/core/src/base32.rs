//! 128 bits in base32: RFC 4648's alphabet in lower case, without padding, one spelling for each value.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// 26 characters: 25 of five bits, and one of three bits and two zeros.
const LENGTH: usize = 26;

/// The characters of `bytes`.
pub(crate) fn encode(bytes: &[u8; 16]) -> String {
    let number = u128::from_be_bytes(*bytes);
    let five = |n: usize| if n + 1 < LENGTH { number >> (123 - 5 * n) } else { number << 2 };
    (0..LENGTH).map(|n| char::from(ALPHABET[(five(n) & 31) as usize])).collect()
}

/// The bytes of what [`encode`] gave; nothing else.
pub(crate) fn decode(text: &str) -> Option<[u8; 16]> {
    if text.len() != LENGTH {
        return None;
    }
    let mut number = 0_u128;
    for (n, byte) in text.bytes().enumerate() {
        let five = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        number = if n + 1 < LENGTH { number << 5 | five } else { number << 3 | five >> 2 };
    }
    let bytes = number.to_be_bytes();
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standard_and_comes_back() {
        // Python: base64.b32encode(bytes(range(16))).lower().rstrip(b"=")
        let counting = std::array::from_fn(|n| n as u8);
        assert_eq!(encode(&counting), "aaaqeayeaudaocajbifqydiob4");
        for bytes in [[0; 16], [255; 16], counting, [0x5a; 16]] {
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
