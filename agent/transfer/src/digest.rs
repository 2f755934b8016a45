//! What a disk holds, as one digest that both sides make in their own way: the agent of what it sends, the worker of what
//! it reads back. Holes cost nothing.

/// Zeros are left out in units of this.
const CELL: u64 = 64 * 1024;

/// BLAKE3 over every cell of the disk that is not all zeros, each with its place, and the size.
pub(crate) struct Digest {
    hasher: blake3::Hasher,
    size: u64,
    /// Where the cell begins that is being filled.
    at: u64,
    cell: Vec<u8>,
}

impl Digest {
    pub(crate) fn new(size: u64) -> Self {
        Self { hasher: blake3::Hasher::new_derive_key("remora transfer 1"), size, at: 0, cell: zeros(size, 0) }
    }

    /// So much is there. In order, within the size; what is left out is zeros.
    pub(crate) fn data(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let begin = at - at % CELL;
            if begin != self.at {
                self.next(begin);
            }
            let from = (at - begin) as usize;
            let length = bytes.len().min(self.cell.len() - from);
            self.cell[from..from + length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            at += length as u64;
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.next(0);
        self.hasher.update(&self.size.to_le_bytes());
        *self.hasher.finalize().as_bytes()
    }

    fn next(&mut self, begin: u64) {
        if self.cell.iter().any(|byte| *byte != 0) {
            self.hasher.update(&self.at.to_le_bytes());
            self.hasher.update(&self.cell);
        }
        self.at = begin;
        self.cell = zeros(self.size, begin);
    }
}

fn zeros(size: u64, begin: u64) -> Vec<u8> {
    vec![0; size.saturating_sub(begin).min(CELL) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(size: u64, parts: &[(u64, &[u8])]) -> [u8; 32] {
        let mut digest = Digest::new(size);
        for (at, bytes) in parts {
            digest.data(*at, bytes);
        }
        digest.finish()
    }

    #[test]
    fn how_it_is_cut_makes_no_difference_and_where_it_lies_does() {
        let size = 3 * CELL + 17;
        let mut disk = vec![0; size as usize];
        fastrand::Rng::with_seed(1).fill(&mut disk[1000..2 * CELL as usize]);
        disk[size as usize - 1] = 1;
        let whole = of(size, &[(0, &disk)]);
        let cut: Vec<_> =
            (0..size).step_by(7001).map(|at| (at, &disk[at as usize..(at + 7001).min(size) as usize])).collect();
        assert_eq!(of(size, &cut), whole);
        let sparse = [(1000, &disk[1000..2 * CELL as usize]), (size - 1, &[1][..])];
        assert_eq!(of(size, &sparse), whole);
        assert_ne!(of(size, &[(0, &disk[1..])]), whole);
        assert_ne!(of(size + 1, &[(0, &disk)]), whole);
        assert_ne!(of(size, &sparse[..1]), whole);
        assert_eq!(of(size, &[]), of(size, &[(5, &[0; 100])]));
        assert_ne!(of(0, &[]), of(1, &[]));
    }
}
