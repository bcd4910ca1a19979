//! Kernel passthrough: files that the kernel reads by itself, without asking this server
//! (`Documentation/filesystems/fuse-passthrough.rst`). Registering one needs CAP_SYS_ADMIN.

use super::{Errno, abi::BackingMap};
use rustix::ioctl::{Setter, opcode};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `FUSE_DEV_IOC_MAGIC`.
const MAGIC: u8 = 229;
/// Major and minor number of `/dev/fuse` (`Documentation/admin-guide/devices.txt`).
const DEVICE: (u32, u32) = (10, 229);

/// Registers a file with a connection; the number returned names it in answers to OPEN.
///
/// # Errors
/// `EPERM` without the right to, `ELOOP` when the file lies on a stacked file system, `ENOTTY` when the kernel knows no
/// passthrough or the descriptor is not `/dev/fuse`.
pub fn open(device: BorrowedFd<'_>, file: impl AsFd) -> Result<i32, Errno> {
    check(device)?;
    const OPEN: rustix::ioctl::Opcode = opcode::write::<BackingMap>(MAGIC, 1);
    let map = BackingMap {
        fd: file.as_fd().as_raw_fd(),
        flags: 0,
        padding: 0,
    };
    // SAFETY: FUSE_DEV_IOC_BACKING_OPEN reads a `fuse_backing_map`, which BackingMap is by its layout (tested), and keeps no
    // pointer to it. The descriptor in it is open, since `file` is borrowed.
    #[allow(unsafe_code)]
    unsafe {
        rustix::ioctl::ioctl(device, Returning(Setter::<OPEN, BackingMap>::new(map)))
    }
}

/// Forgets a registered file. Whoever has it open by way of the kernel goes on reading.
///
/// # Errors
/// `EPERM` without the right to, `ENOENT` when there is no such number.
pub fn close(device: BorrowedFd<'_>, id: i32) -> Result<(), Errno> {
    check(device)?;
    const CLOSE: rustix::ioctl::Opcode = opcode::write::<u32>(MAGIC, 2);
    let id = u32::try_from(id).map_err(|_| Errno::INVAL)?;
    // SAFETY: FUSE_DEV_IOC_BACKING_CLOSE reads a u32 and keeps no pointer to it.
    #[allow(unsafe_code)]
    unsafe {
        rustix::ioctl::ioctl(device, Setter::<CLOSE, u32>::new(id))
    }
}

/// The numbers mean something else to other devices.
fn check(device: BorrowedFd<'_>) -> Result<(), Errno> {
    let facts = rustix::fs::fstat(device)?;
    let is_character =
        rustix::fs::FileType::from_raw_mode(facts.st_mode) == rustix::fs::FileType::CharacterDevice;
    let number = (rustix::fs::major(facts.st_rdev), rustix::fs::minor(facts.st_rdev));
    match is_character && number == DEVICE {
        true => Ok(()),
        false => Err(Errno::NOTTY),
    }
}

/// An ioctl that is set up as another one, and whose result is a number.
struct Returning<I>(I);

// SAFETY: everything that the kernel sees is the inner ioctl's; only its return value, which is not a pointer, is handed on.
#[allow(unsafe_code)]
unsafe impl<I: rustix::ioctl::Ioctl> rustix::ioctl::Ioctl for Returning<I> {
    type Output = i32;
    const IS_MUTATING: bool = I::IS_MUTATING;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        self.0.opcode()
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.0.as_ptr()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _extract_output: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fuse_device_is_asked() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(open(file.as_fd(), &file), Err(Errno::NOTTY));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(close(null.as_fd(), 1), Err(Errno::NOTTY));
    }

    #[test]
    fn the_numbers_are_those_of_the_kernels_header() {
        assert_eq!(opcode::write::<BackingMap>(MAGIC, 1), 0x4010_e501);
        assert_eq!(opcode::write::<u32>(MAGIC, 2), 0x4004_e502);
    }
}
