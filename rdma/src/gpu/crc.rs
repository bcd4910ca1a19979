//! CRC-64/NVME on a GPU: the tables of its kernel (`crc64nvme.cu`), and what a processor makes of the kernel's partial values.

use std::{array, sync::OnceLock};

/// The kernel, for the driver to compile.
pub(super) const KERNEL: &str = concat!(include_str!("crc64nvme.ptx"), "\0");
/// The kernel's name, a C string.
pub(super) const NAME: &std::ffi::CStr = c"crc64nvme";
/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Bytes that a thread sums up.
const SLICE: u64 = 4096;
/// Bytes behind each of the kernel's partial values, but for the first.
pub(super) const BLOCK: u64 = SLICE * THREADS as u64;
/// Columns of the matrices that join the slices of a block pairwise.
const JOINS: usize = 8 * 64;
/// The polynomial of CRC-64/NVME (NVM Express, NVM Command Set Specification 1.0, 5.2.1.3.4), bits reversed.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// What the state becomes by bytes of zero: a matrix over GF(2), by its columns.
type Shift = [u64; 64];

/// What is computed once.
pub(super) struct Tables {
    /// The byte-wise table, then the matrices of the kernel.
    pub kernel: [u64; THREADS as usize + JOINS],
    block: Shift,
}

impl Tables {
    pub fn get() -> &'static Self {
        static TABLES: OnceLock<Tables> = OnceLock::new();
        TABLES.get_or_init(Self::compute)
    }

    fn compute() -> Self {
        let bytes: [u64; 256] = array::from_fn(|byte| {
            (0..8).fold(byte as u64, |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
            })
        });
        let mut shift: Shift = array::from_fn(|bit| {
            let state = 1_u64 << bit;
            bytes[(state & 0xff) as usize] ^ (state >> 8)
        });
        for _ in 0..SLICE.ilog2() {
            shift = squared(&shift);
        }
        let mut kernel = [0; THREADS as usize + JOINS];
        kernel[..256].copy_from_slice(&bytes);
        for matrix in kernel[256..].chunks_mut(64) {
            matrix.copy_from_slice(&shift);
            shift = squared(&shift);
        }
        Self { kernel, block: shift }
    }

    /// The checksum, of the kernel's partial values.
    pub fn join(&self, partial: &[u64]) -> u64 {
        !partial
            .iter()
            .fold(0, |crc, value| moved(&self.block, crc) ^ value)
    }
}

fn moved(shift: &Shift, state: u64) -> u64 {
    let bits = shift.iter().enumerate().filter(|(bit, _)| state >> bit & 1 == 1);
    bits.fold(0, |sum, (_, column)| sum ^ column)
}

fn squared(shift: &Shift) -> Shift {
    array::from_fn(|bit| moved(shift, shift[bit]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crc_fast::{CrcAlgorithm, checksum};

    /// The kernel's work, block by block, on a processor.
    fn partial(tables: &Tables, bytes: &[u8]) -> Vec<u64> {
        let first = bytes.len() as u64 % BLOCK;
        let split = if first == 0 {
            BLOCK.min(bytes.len() as u64)
        } else {
            first
        };
        let (first, rest) = bytes.split_at(split as usize);
        let step =
            |crc: u64, byte: &u8| tables.kernel[((crc ^ u64::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
        let mut all = vec![first.iter().fold(u64::MAX, step)];
        all.extend(
            rest.chunks(BLOCK as usize)
                .map(|block| block.iter().fold(0, step)),
        );
        all
    }

    #[test]
    fn partial_values_make_the_checksum() {
        let tables = Tables::get();
        let bytes: Vec<u8> = (0..(2 << 20) + 12_345_u32)
            .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for length in [1, 9, 4096, 1 << 20, (1 << 20) + 1, bytes.len()] {
            let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes[..length]);
            assert_eq!(tables.join(&partial(tables, &bytes[..length])), sum, "{length}");
        }
        assert_eq!(
            tables.join(&partial(tables, b"123456789")),
            0xae8b_1486_0a79_9888,
            "the check value"
        );
    }

    #[test]
    fn the_joining_matrices_move_on_by_slices() {
        let tables = Tables::get();
        let step = |crc: u64, _: u64| tables.kernel[(crc & 0xff) as usize] ^ (crc >> 8);
        for (join, matrix) in tables.kernel[256..].chunks(64).enumerate() {
            let moved_on = (0..SLICE << join).fold(0x0123_4567_89ab_cdef, step);
            assert_eq!(
                moved(matrix.try_into().unwrap(), 0x0123_4567_89ab_cdef),
                moved_on,
                "{join}"
            );
        }
    }
}
