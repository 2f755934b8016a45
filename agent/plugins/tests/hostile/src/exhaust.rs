//! What takes all memory and all stack that there is.

use std::hint::black_box;

pub(crate) fn grow() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(vec![1; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "it is to run out of stack")]
pub(crate) fn deeper(n: u64) -> u64 {
    let array = black_box([n; 100]);
    1 + deeper(array[7] + 1) + array[9]
}
