#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_rdma::fuzzing::local_messages(data));
