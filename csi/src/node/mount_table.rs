//! `/proc/self/mountinfo` (proc(5)): what is mounted where, without touching a mount that may be dead.

use std::{
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Type of our mounts in the mount table.
pub const FS_TYPE: &str = "fuse.penstock";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// `major:minor` of its file system; a bind mount has that of what it binds.
    pub device: String,
    /// Where.
    pub path: PathBuf,
    /// `fuse.penstock` for ours.
    pub fs_type: String,
    /// Whether this mount (not its file system) is read-only.
    pub read_only: bool,
}

/// The topmost mount at a path.
///
/// # Errors
/// When the table cannot be read.
pub fn at(path: &Path) -> io::Result<Option<Mounted>> {
    // Somebody else's mount may have a name that is no text; it must not hide ours.
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(String::from_utf8_lossy(&table)
        .lines()
        .filter_map(parse)
        .rfind(|mounted| mounted.path == path))
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - fstype source rw`
fn parse(line: &str) -> Option<Mounted> {
    let (mount, system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    let path = unescape(fields.nth(1)?);
    let read_only = fields.next()?.split(',').any(|option| option == "ro");
    Some(Mounted {
        device,
        path,
        read_only,
        fs_type: system.split(' ').next()?.to_owned(),
    })
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and the like.
fn unescape(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_understood() {
        let line = r"36 35 0:98 / /var/lib/kubelet/a\040b ro,nosuid shared:7 master:1 - fuse.penstock penstock:data rw,user_id=0";
        let mounted = parse(line).unwrap();
        assert_eq!(mounted.device, "0:98");
        assert_eq!(mounted.path, Path::new("/var/lib/kubelet/a b"));
        assert_eq!(mounted.fs_type, FS_TYPE);
        assert!(mounted.read_only);
        let other = parse(r"36 35 0:98 / /x rw - tmpfs none rw").unwrap();
        assert!(!other.read_only);
        assert!(parse("").is_none());
    }

    #[test]
    fn what_is_not_mounted_is_not_found() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert!(at(Path::new("/no/such/mount")).unwrap().is_none());
    }
}
