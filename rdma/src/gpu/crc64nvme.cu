// CRC-64/NVME of a piece of GPU memory. `crc64nvme.ptx` is made of this; the first lines of that say how.
//
// Slices of SLICE bytes are summed by a thread each, and joined pairwise within a block: the CRC of two slices is that of the first,
// moved on by the length of the second (a matrix over GF(2)), plus that of the second. Slices are counted from the end, so that all but the
// first are full: zeros before the first byte, from a state of zero, change nothing. Each block writes one partial value of BLOCK bytes.

typedef unsigned long long u64;

const u64 SLICE = 4096;
const unsigned THREADS = 256;

// tables: 256 values of the byte-wise algorithm; then 8 matrices of 64 columns, which move on by SLICE << 0 … SLICE << 7 bytes.
extern "C" __global__ void crc64nvme(const unsigned char *bytes, u64 length, const u64 *tables, u64 *partial)
{
    __shared__ u64 table[THREADS];
    __shared__ u64 joined[THREADS];
    const unsigned thread = threadIdx.x;
    table[thread] = tables[thread];
    __syncthreads();

    const u64 slice = (u64)blockIdx.x * THREADS + thread;
    const u64 behind = ((u64)gridDim.x * THREADS - 1 - slice) * SLICE;
    u64 crc = 0;
    if (behind < length) {
        const u64 end = length - behind;
        const u64 begin = end > SLICE ? end - SLICE : 0;
        // The first slice that has bytes begins with the initial state.
        crc = begin == 0 ? ~0ull : 0;
        const unsigned char *at = bytes + begin;
        const unsigned char *const stop = bytes + end;
        for (; at < stop && ((u64)at & 7) != 0; ++at)
            crc = table[(crc ^ *at) & 0xff] ^ (crc >> 8);
        for (; at + 8 <= stop; at += 8) {
            crc ^= *(const u64 *)at;
            for (int byte = 0; byte < 8; ++byte)
                crc = table[crc & 0xff] ^ (crc >> 8);
        }
        for (; at < stop; ++at)
            crc = table[(crc ^ *at) & 0xff] ^ (crc >> 8);
    }

    joined[thread] = crc;
    for (int step = 0; step < 8; ++step) {
        __syncthreads();
        const unsigned other = 1u << step;
        if (thread % (2 * other) == 0) {
            const u64 *matrix = tables + THREADS + 64 * step;
            u64 moved = 0;
            for (int bit = 0; bit < 64; ++bit)
                if (joined[thread] >> bit & 1)
                    moved ^= matrix[bit];
            joined[thread] = moved ^ joined[thread + other];
        }
    }
    if (thread == 0)
        partial[blockIdx.x] = joined[0];
}
