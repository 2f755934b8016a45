//! Secrets as people write them down.

/// Cuts off the newline that editors end a file with: it is no part of the secret that somebody wrote there. One alone, for more
/// than one were written on purpose.
pub fn cut_newline(secret: &mut Vec<u8>) {
    secret.pop_if(|last| *last == b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_no_part_of_a_secret() {
        for (written, meant) in
            [("s3cret\n", "s3cret"), ("s3cret", "s3cret"), ("two\n\n", "two\n"), ("\n", ""), ("", "")]
        {
            let mut secret = written.as_bytes().to_vec();
            cut_newline(&mut secret);
            assert_eq!(secret, meant.as_bytes(), "{written:?}");
        }
    }
}
