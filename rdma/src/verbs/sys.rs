//! The part of libibverbs (`infiniband/verbs.h`) that the data path uses, loaded when it is first needed.
//!
//! Names and layouts are those of the C header; its ABI has been stable since `IBVERBS_1.1`. No build needs the library,
//! its headers or a C compiler, and a program starts where it is not installed.
#![allow(non_camel_case_types)]

use super::super::fabric::Unavailable;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    sync::OnceLock,
};

/// The soname of libibverbs since 2005.
const LIBRARY: &str = "libibverbs.so.1";

/// `ibv_reg_dmabuf_mr(pd, offset, length, iova, fd, access)`.
type RegisterDmaBuf = unsafe extern "C" fn(*mut ibv_pd, u64, usize, u64, c_int, c_int) -> *mut ibv_mr;

macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        /// The exported functions.
        pub struct Verbs {
            $(pub $name: unsafe extern "C" fn($($argument: $type),*) $(-> $result)?,)*
            /// Since rdma-core 34.
            pub ibv_reg_dmabuf_mr: Option<RegisterDmaBuf>,
        }

        impl Verbs {
            fn resolve(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the signature is that of verbs.h, and the library is never unloaded.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }?,)*
                    // SAFETY: as above.
                    ibv_reg_dmabuf_mr: unsafe { library.get(b"ibv_reg_dmabuf_mr\0") }.ok().map(|symbol| *symbol),
                })
            }
        }
    };
}

functions! {
    fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device;
    fn ibv_free_device_list(list: *mut *mut ibv_device);
    fn ibv_get_device_name(device: *mut ibv_device) -> *const c_char;
    fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context;
    fn ibv_close_device(context: *mut ibv_context) -> c_int;
    fn ibv_query_device(context: *mut ibv_context, attributes: *mut ibv_device_attr) -> c_int;
    fn ibv_query_port(context: *mut ibv_context, port: u8, attributes: *mut ibv_port_attr) -> c_int;
    fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int;
    fn ibv_ack_async_event(event: *mut ibv_async_event);
    fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd;
    fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int;
    fn ibv_reg_mr(pd: *mut ibv_pd, address: *mut c_void, length: usize, access: c_int) -> *mut ibv_mr;
    fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int;
    fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel;
    fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int;
    fn ibv_create_cq(context: *mut ibv_context, entries: c_int, cq_context: *mut c_void,
                     channel: *mut ibv_comp_channel, vector: c_int) -> *mut ibv_cq;
    fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int;
    fn ibv_get_cq_event(channel: *mut ibv_comp_channel, cq: *mut *mut ibv_cq, cq_context: *mut *mut c_void) -> c_int;
    fn ibv_ack_cq_events(cq: *mut ibv_cq, count: c_uint);
    fn ibv_create_qp(pd: *mut ibv_pd, attributes: *mut ibv_qp_init_attr) -> *mut ibv_qp;
    fn ibv_modify_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int;
    fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int;
}

impl Verbs {
    /// The library, loaded once per process.
    ///
    /// # Errors
    /// [`Unavailable::NoLibrary`] when it is not installed, or too old to have a function.
    pub fn load() -> Result<&'static Self, Unavailable> {
        static VERBS: OnceLock<Option<Verbs>> = OnceLock::new();
        VERBS
            .get_or_init(|| {
                // SAFETY: libibverbs has no constructor that asks anything of its user.
                let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) };
                let verbs = library.and_then(|library| {
                    let verbs = Self::resolve(&library);
                    // Its drivers start no threads but keep pointers into it: it stays for the life of the process.
                    std::mem::forget(library);
                    verbs
                });
                verbs
                    .inspect_err(|error| tracing::debug!(%error, "libibverbs cannot be loaded"))
                    .ok()
            })
            .as_ref()
            .ok_or(Unavailable::NoLibrary)
    }
}

// What verbs.h has as inline functions over the operations of the driver.

/// # Safety
/// `pd` is allocated.
pub unsafe fn alloc_mw(pd: *mut ibv_pd, kind: c_int) -> *mut ibv_mw {
    // SAFETY: by the caller; a driver without windows leaves the pointer null.
    unsafe {
        (*(*pd).context)
            .ops
            .alloc_mw
            .map_or(std::ptr::null_mut(), |call| call(pd, kind))
    }
}

/// # Safety
/// `mw` is allocated, and no queue pair uses it any more.
pub unsafe fn dealloc_mw(mw: *mut ibv_mw) -> c_int {
    // SAFETY: by the caller; whoever allocates windows also frees them.
    unsafe { (*(*mw).context).ops.dealloc_mw.map_or(0, |call| call(mw)) }
}

/// # Safety
/// `cq` exists.
pub unsafe fn poll_cq(cq: *mut ibv_cq, into: &mut [ibv_wc]) -> c_int {
    let most = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
    // SAFETY: by the caller, and `into` has room for as many as asked for. Every driver has this operation.
    unsafe {
        (*(*cq).context)
            .ops
            .poll_cq
            .map_or(-1, |call| call(cq, most, into.as_mut_ptr()))
    }
}

/// # Safety
/// `cq` exists.
pub unsafe fn req_notify_cq(cq: *mut ibv_cq) -> c_int {
    // SAFETY: by the caller. Every driver has this operation.
    unsafe { (*(*cq).context).ops.req_notify_cq.map_or(-1, |call| call(cq, 0)) }
}

/// # Safety
/// `qp` exists; the memory that `wr` names stays until its completion.
pub unsafe fn post_send(qp: *mut ibv_qp, wr: &mut ibv_send_wr) -> c_int {
    let mut bad = std::ptr::null_mut();
    // SAFETY: by the caller. Every driver has this operation.
    unsafe {
        (*(*qp).context)
            .ops
            .post_send
            .map_or(-1, |call| call(qp, wr, &mut bad))
    }
}

/// # Safety
/// `qp` exists; the memory that `wr` names stays until its completion.
pub unsafe fn post_recv(qp: *mut ibv_qp, wr: &mut ibv_recv_wr) -> c_int {
    let mut bad = std::ptr::null_mut();
    // SAFETY: by the caller. Every driver has this operation.
    unsafe {
        (*(*qp).context)
            .ops
            .post_recv
            .map_or(-1, |call| call(qp, wr, &mut bad))
    }
}

/// Seen through pointers only.
#[repr(C)]
pub struct ibv_device {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct ibv_context {
    pub device: *mut ibv_device,
    pub ops: ibv_context_ops,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
    // More follows.
}

#[repr(C)]
pub struct ibv_context_ops {
    _compat_1: [*mut c_void; 7],
    pub alloc_mw: Option<unsafe extern "C" fn(*mut ibv_pd, c_int) -> *mut ibv_mw>,
    _bind_mw: *mut c_void,
    pub dealloc_mw: Option<unsafe extern "C" fn(*mut ibv_mw) -> c_int>,
    _compat_2: *mut c_void,
    pub poll_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
    _compat_3: [*mut c_void; 12],
    pub post_send:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int>,
    pub post_recv:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int>,
    _compat_4: [*mut c_void; 5],
}

#[repr(C)]
pub struct ibv_pd {
    pub context: *mut ibv_context,
    // More follows.
}

#[repr(C)]
pub struct ibv_comp_channel {
    pub context: *mut ibv_context,
    pub fd: c_int,
    // More follows.
}

#[repr(C)]
pub struct ibv_cq {
    pub context: *mut ibv_context,
    // More follows.
}

#[repr(C)]
pub struct ibv_qp {
    pub context: *mut ibv_context,
    _pointers: [*mut c_void; 5],
    _handle: u32,
    pub qp_num: u32,
    // More follows.
}

#[repr(C)]
pub struct ibv_mr {
    _pointers: [*mut c_void; 3],
    _length: usize,
    _handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

#[repr(C)]
pub struct ibv_mw {
    pub context: *mut ibv_context,
    _pd: *mut ibv_pd,
    pub rkey: u32,
    _handle: u32,
    _kind: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_device_attr {
    pub fw_ver: [u8; 64],
    _guids: [u64; 2],
    _sizes: [u64; 2],
    pub vendor_id: u32,
    _versions: [u32; 2],
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: c_uint,
    _sges: [c_int; 2],
    pub max_cq: c_int,
    pub max_cqe: c_int,
    _counts_1: [c_int; 2],
    pub max_qp_rd_atom: c_int,
    _counts_2: [c_int; 2],
    pub max_qp_init_rd_atom: c_int,
    _counts_3: [c_int; 4],
    pub max_mw: c_int,
    _counts_4: [c_int; 11],
    _max_pkeys: u16,
    _ack_delay: u8,
    pub phys_port_cnt: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_port_attr {
    pub state: c_int,
    pub max_mtu: c_int,
    pub active_mtu: c_int,
    _gid_tbl_len: c_int,
    _port_cap_flags: u32,
    pub max_msg_sz: u32,
    _counters: [u32; 2],
    _pkey_tbl_len: u16,
    pub lid: u16,
    _sm_lid: u16,
    _small: [u8; 8],
    pub link_layer: u8,
    _flags: u8,
    _port_cap_flags2: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union ibv_async_event_element {
    pub cq: *mut ibv_cq,
    pub qp: *mut ibv_qp,
    pub port_num: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_async_event {
    pub element: ibv_async_event_element,
    pub event_type: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_wc {
    pub wr_id: u64,
    pub status: c_int,
    pub opcode: c_int,
    pub vendor_err: u32,
    pub byte_len: u32,
    /// In network byte order.
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: c_uint,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_qp_cap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_qp_init_attr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut ibv_cq,
    pub recv_cq: *mut ibv_cq,
    pub srq: *mut c_void,
    pub cap: ibv_qp_cap,
    pub qp_type: c_int,
    pub sq_sig_all: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_global_route {
    /// 16 bytes; a union with 64-bit members in C, hence the alignment.
    pub dgid: [u64; 2],
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_ah_attr {
    pub grh: ibv_global_route,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_qp_attr {
    pub qp_state: c_int,
    pub cur_qp_state: c_int,
    pub path_mtu: c_int,
    pub path_mig_state: c_int,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: ibv_qp_cap,
    pub ah_attr: ibv_ah_attr,
    pub alt_ah_attr: ibv_ah_attr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_mw_bind_info {
    pub mr: *mut ibv_mr,
    pub addr: u64,
    pub length: u64,
    pub mw_access_flags: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_send_wr {
    pub wr_id: u64,
    pub next: *mut ibv_send_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
    pub opcode: c_int,
    pub send_flags: c_uint,
    /// The immediate in network byte order, or the rkey to invalidate.
    pub imm_data_or_rkey: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    _atomic: [u64; 2],
    _xrc: u32,
    pub bind_mw: *mut ibv_mw,
    pub bind_rkey: u32,
    pub bind_info: ibv_mw_bind_info,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ibv_recv_wr {
    pub wr_id: u64,
    pub next: *mut ibv_recv_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
}

macro_rules! zeroed {
    ($($type:ty),*) => {
        $(impl $type {
            /// All zero, as `memset` leaves it.
            pub fn zeroed() -> Self {
                // SAFETY: numbers and pointers only; zero is a value of each.
                unsafe { std::mem::zeroed() }
            }
        })*
    };
}
zeroed!(
    ibv_device_attr,
    ibv_port_attr,
    ibv_async_event,
    ibv_qp_init_attr,
    ibv_qp_attr,
    ibv_send_wr,
    ibv_recv_wr
);

pub const IBV_PORT_ACTIVE: c_int = 4;
pub const IBV_DEVICE_MEM_WINDOW_TYPE_2A: c_uint = 1 << 23;
pub const IBV_DEVICE_MEM_WINDOW_TYPE_2B: c_uint = 1 << 24;

pub const IBV_EVENT_CQ_ERR: c_int = 0;
pub const IBV_EVENT_QP_FATAL: c_int = 1;
pub const IBV_EVENT_QP_REQ_ERR: c_int = 2;
pub const IBV_EVENT_QP_ACCESS_ERR: c_int = 3;
pub const IBV_EVENT_DEVICE_FATAL: c_int = 8;
pub const IBV_EVENT_PORT_ACTIVE: c_int = 9;
pub const IBV_EVENT_PORT_ERR: c_int = 10;

pub const IBV_ACCESS_LOCAL_WRITE: c_int = 1;
pub const IBV_ACCESS_REMOTE_WRITE: c_int = 1 << 1;
pub const IBV_ACCESS_REMOTE_READ: c_int = 1 << 2;
pub const IBV_ACCESS_MW_BIND: c_int = 1 << 4;

pub const IBV_MW_TYPE_2: c_int = 2;

pub const IBV_QPT_RC: c_int = 2;
pub const IBV_QPS_INIT: c_int = 1;
pub const IBV_QPS_RTR: c_int = 2;
pub const IBV_QPS_RTS: c_int = 3;
pub const IBV_QPS_ERR: c_int = 6;

pub const IBV_QP_STATE: c_int = 1;
pub const IBV_QP_ACCESS_FLAGS: c_int = 1 << 3;
pub const IBV_QP_PKEY_INDEX: c_int = 1 << 4;
pub const IBV_QP_PORT: c_int = 1 << 5;
pub const IBV_QP_AV: c_int = 1 << 7;
pub const IBV_QP_PATH_MTU: c_int = 1 << 8;
pub const IBV_QP_TIMEOUT: c_int = 1 << 9;
pub const IBV_QP_RETRY_CNT: c_int = 1 << 10;
pub const IBV_QP_RNR_RETRY: c_int = 1 << 11;
pub const IBV_QP_RQ_PSN: c_int = 1 << 12;
pub const IBV_QP_MAX_QP_RD_ATOMIC: c_int = 1 << 13;
pub const IBV_QP_MIN_RNR_TIMER: c_int = 1 << 15;
pub const IBV_QP_SQ_PSN: c_int = 1 << 16;
pub const IBV_QP_MAX_DEST_RD_ATOMIC: c_int = 1 << 17;
pub const IBV_QP_DEST_QPN: c_int = 1 << 20;

pub const IBV_WR_RDMA_WRITE: c_int = 0;
pub const IBV_WR_RDMA_WRITE_WITH_IMM: c_int = 1;
pub const IBV_WR_RDMA_READ: c_int = 4;
pub const IBV_WR_LOCAL_INV: c_int = 7;
pub const IBV_WR_BIND_MW: c_int = 8;
pub const IBV_SEND_SIGNALED: c_uint = 1 << 1;

pub const IBV_WC_SUCCESS: c_int = 0;
pub const IBV_WC_WR_FLUSH_ERR: c_int = 5;
pub const IBV_WC_RECV_RDMA_WITH_IMM: c_int = (1 << 7) + 1;
pub const IBV_WC_WITH_IMM: c_uint = 1 << 1;

/// What a completion's status means (InfiniBand Architecture 11.6.2).
pub fn status_name(status: c_int) -> &'static str {
    match status {
        0 => "success",
        1 => "local length error",
        2 => "local queue pair operation error",
        4 => "local protection error",
        5 => "flushed, because the queue pair failed before",
        6 => "memory window bind error",
        7 => "bad response from the peer",
        8 => "local access error",
        9 => "the peer calls the request invalid",
        10 => "the peer denies access to the memory",
        11 => "the peer failed to do it",
        12 => "no answer from the peer (transport retries exceeded)",
        13 => "the peer is not ready to receive (retries exceeded)",
        16 => "the peer aborted",
        19 => "fatal error of the device",
        20 => "response timeout",
        _ => "general error",
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// Against what a C compiler says of `infiniband/verbs.h` (rdma-core 44, LP64).
    #[test]
    fn layouts_are_those_of_the_c_header() {
        macro_rules! same {
            ($($type:ident $size:literal { $($field:ident $offset:literal)* })*) => {
                $(
                    // Zero: only a part of the struct is declared here.
                    if $size != 0 { assert_eq!(size_of::<$type>(), $size, stringify!($type)); }
                    $(assert_eq!(offset_of!($type, $field), $offset, "{}.{}", stringify!($type), stringify!($field));)*
                )*
            };
        }
        same! {
            ibv_device_attr 232 { vendor_id 96 max_qp 108 max_qp_wr 112 device_cap_flags 116 max_cqe 132 max_qp_rd_atom 144
                                  max_qp_init_rd_atom 156 max_mw 176 phys_port_cnt 227 }
            ibv_port_attr 52 { max_msg_sz 20 lid 34 link_layer 46 }
            ibv_async_event 16 { event_type 8 }
            ibv_wc 48 { imm_data 24 qp_num 28 wc_flags 36 }
            ibv_mr 48 { lkey 36 rkey 40 }
            ibv_mw 32 { rkey 16 }
            ibv_qp_init_attr 64 { cap 32 qp_type 52 sq_sig_all 56 }
            ibv_qp_attr 144 { cap 36 ah_attr 56 pkey_index 120 max_rd_atomic 126 rnr_retry 132 rate_limit 136 }
            ibv_ah_attr 32 { dlid 24 }
            ibv_global_route 24 { flow_label 16 }
            ibv_sge 16 { lkey 12 }
            ibv_send_wr 128 { send_flags 32 imm_data_or_rkey 36 remote_addr 40 rkey 48 bind_mw 80 bind_rkey 88 bind_info 96 }
            ibv_mw_bind_info 32 { mw_access_flags 24 }
            ibv_recv_wr 32 { num_sge 24 }
            ibv_context_ops 256 { alloc_mw 56 dealloc_mw 72 poll_cq 88 req_notify_cq 96 post_send 200 post_recv 208 }
            ibv_context 0 { ops 8 cmd_fd 264 async_fd 268 num_comp_vectors 272 }
            ibv_qp 0 { context 0 qp_num 52 }
            ibv_comp_channel 0 { fd 8 }
        }
    }
}
