//! Requests as values: what the kernel's bytes ask for.

use super::{
    Errno,
    abi::{self, InHeader, flag, opcode},
};
use bytes::Bytes;
use std::time::SystemTime;
use zerocopy::FromBytes;

/// A request of the kernel.
#[derive(Debug)]
pub struct Request {
    /// Names the request; 0 is never used. The bit of a repeated sending is taken out.
    pub unique: u64,
    /// Whether the kernel sends it again after another server took it and did not answer.
    pub resent: bool,
    /// The node it is about (the parent, where a name is given).
    pub node: u64,
    /// On whose behalf.
    pub caller: Caller,
    /// What is asked.
    pub operation: Operation,
}

/// The process a request is made for, as seen from this process' namespaces.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; 0 when it is not visible here.
    pub pid: u32,
}

/// What SETATTR asks to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// The handle it is made through.
    pub handle: Option<u64>,
}

/// What is asked. Names are what came: one path component each, checked for UTF-8 and nothing else.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Operation {
    Init {
        offer: InitOffer,
    },
    Destroy,
    Interrupt {
        unique: u64,
    },
    Forget {
        nodes: Vec<(u64, u64)>,
    },
    Lookup {
        name: String,
    },
    Getattr {
        handle: Option<u64>,
    },
    Setattr {
        change: SetAttributes,
    },
    Mknod {
        name: String,
        mode: u32,
    },
    Mkdir {
        name: String,
    },
    Unlink {
        name: String,
    },
    Rmdir {
        name: String,
    },
    Rename {
        name: String,
        new_parent: u64,
        new_name: String,
        flags: u32,
    },
    Link,
    Symlink,
    Open {
        flags: u32,
    },
    Create {
        name: String,
        flags: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: Bytes,
        /// Whether these are pages of a shared memory map: they belong where they were, whatever handle they come through.
        mapped: bool,
    },
    Flush {
        handle: u64,
    },
    Fsync {
        handle: u64,
    },
    Release {
        handle: u64,
    },
    Opendir,
    Readdir {
        handle: u64,
        offset: u64,
        size: u32,
        plus: bool,
    },
    Releasedir {
        handle: u64,
    },
    Fsyncdir,
    Statfs,
    Unknown {
        opcode: u32,
    },
}

/// What INIT offers, before it is negotiated.
#[derive(Debug, Clone, Copy)]
pub struct InitOffer {
    pub(super) first: abi::InitIn,
    pub(super) flags2: u32,
}

/// A request that cannot be understood: it is answered with this error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub unique: u64,
    pub errno: Errno,
}

impl Operation {
    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init { .. } => "init",
            Self::Destroy => "destroy",
            Self::Interrupt { .. } => "interrupt",
            Self::Forget { .. } => "forget",
            Self::Lookup { .. } => "lookup",
            Self::Getattr { .. } => "getattr",
            Self::Setattr { .. } => "setattr",
            Self::Mknod { .. } => "mknod",
            Self::Mkdir { .. } => "mkdir",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Link => "link",
            Self::Symlink => "symlink",
            Self::Open { .. } => "open",
            Self::Create { .. } => "create",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Flush { .. } => "flush",
            Self::Fsync { .. } => "fsync",
            Self::Release { .. } => "release",
            Self::Opendir => "opendir",
            Self::Readdir { .. } => "readdir",
            Self::Releasedir { .. } => "releasedir",
            Self::Fsyncdir => "fsyncdir",
            Self::Statfs => "statfs",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether it may be given up when its caller is interrupted: it changes nothing, so nobody can tell.
    pub(super) fn can_be_abandoned(&self) -> bool {
        matches!(
            self,
            Self::Lookup { .. } | Self::Getattr { .. } | Self::Read { .. } | Self::Readdir { .. }
        )
    }
}

impl Request {
    /// Reads one request.
    pub(super) fn parse(bytes: &Bytes) -> Result<Self, Refused> {
        let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| Refused {
            unique: 0,
            errno: Errno::IO,
        })?;
        let unique = header.unique & !flag::UNIQUE_RESEND;
        let mut fields = Fields {
            rest: bytes.slice(abi::IN_HEADER..),
        };
        let operation = operation(&header, &mut fields).map_err(|errno| Refused { unique, errno })?;
        Ok(Self {
            unique,
            resent: header.unique & flag::UNIQUE_RESEND != 0,
            node: header.nodeid,
            caller: Caller {
                uid: header.uid,
                gid: header.gid,
                pid: header.pid,
            },
            operation,
        })
    }
}

fn operation(header: &InHeader, fields: &mut Fields) -> Result<Operation, Errno> {
    Ok(match header.opcode {
        opcode::INIT => {
            let first = fields.take()?;
            // Kernels before 5.17 send no flags2.
            let flags2 = fields.take::<u32>().unwrap_or(0);
            Operation::Init {
                offer: InitOffer { first, flags2 },
            }
        }
        opcode::DESTROY => Operation::Destroy,
        opcode::INTERRUPT => Operation::Interrupt {
            unique: fields.take::<abi::InterruptIn>()?.unique,
        },
        opcode::FORGET => Operation::Forget {
            nodes: vec![(header.nodeid, fields.take::<abi::ForgetIn>()?.nlookup)],
        },
        opcode::BATCH_FORGET => {
            let count = fields.take::<abi::BatchForgetIn>()?.count;
            let mut nodes = Vec::new();
            for _ in 0..count {
                let one: abi::ForgetOne = fields.take()?;
                nodes.push((one.nodeid, one.nlookup));
            }
            Operation::Forget { nodes }
        }
        opcode::LOOKUP => Operation::Lookup { name: fields.name()? },
        opcode::GETATTR => {
            let asked: abi::GetattrIn = fields.take()?;
            Operation::Getattr {
                handle: (asked.getattr_flags & flag::GETATTR_FH != 0).then_some(asked.fh),
            }
        }
        opcode::SETATTR => {
            let asked: abi::SetattrIn = fields.take()?;
            let valid = |bit| asked.valid & bit != 0;
            Operation::Setattr {
                change: SetAttributes {
                    mode: valid(flag::FATTR_MODE).then_some(asked.mode),
                    uid: valid(flag::FATTR_UID).then_some(asked.uid),
                    gid: valid(flag::FATTR_GID).then_some(asked.gid),
                    size: valid(flag::FATTR_SIZE).then_some(asked.size),
                    handle: valid(flag::FATTR_FH).then_some(asked.fh),
                },
            }
        }
        opcode::MKNOD => Operation::Mknod {
            mode: fields.take::<abi::MknodIn>()?.mode,
            name: fields.name()?,
        },
        opcode::MKDIR => {
            fields.take::<abi::MkdirIn>()?;
            Operation::Mkdir { name: fields.name()? }
        }
        opcode::UNLINK => Operation::Unlink { name: fields.name()? },
        opcode::RMDIR => Operation::Rmdir { name: fields.name()? },
        opcode::RENAME => {
            let asked: abi::RenameIn = fields.take()?;
            rename(fields, asked.newdir, 0)?
        }
        opcode::RENAME2 => {
            let asked: abi::Rename2In = fields.take()?;
            rename(fields, asked.newdir, asked.flags)?
        }
        opcode::LINK => Operation::Link,
        opcode::SYMLINK => Operation::Symlink,
        opcode::OPEN => Operation::Open {
            flags: fields.take::<abi::OpenIn>()?.flags,
        },
        opcode::CREATE => Operation::Create {
            flags: fields.take::<abi::CreateIn>()?.flags,
            name: fields.name()?,
        },
        opcode::READ => {
            let asked: abi::ReadIn = fields.take()?;
            Operation::Read {
                handle: asked.fh,
                offset: asked.offset,
                size: asked.size,
            }
        }
        opcode::WRITE => {
            let asked: abi::WriteIn = fields.take()?;
            let data = fields.rest.clone();
            if data.len() != asked.size as usize {
                return Err(Errno::IO);
            }
            Operation::Write {
                handle: asked.fh,
                offset: asked.offset,
                data,
                mapped: asked.write_flags & flag::WRITE_CACHE != 0,
            }
        }
        opcode::FLUSH => Operation::Flush {
            handle: fields.take::<abi::FlushIn>()?.fh,
        },
        opcode::FSYNC => Operation::Fsync {
            handle: fields.take::<abi::FsyncIn>()?.fh,
        },
        opcode::RELEASE => Operation::Release {
            handle: fields.take::<abi::ReleaseIn>()?.fh,
        },
        opcode::OPENDIR => Operation::Opendir,
        opcode::READDIR | opcode::READDIRPLUS => {
            let asked: abi::ReadIn = fields.take()?;
            Operation::Readdir {
                handle: asked.fh,
                offset: asked.offset,
                size: asked.size,
                plus: header.opcode == opcode::READDIRPLUS,
            }
        }
        opcode::RELEASEDIR => Operation::Releasedir {
            handle: fields.take::<abi::ReleaseIn>()?.fh,
        },
        opcode::FSYNCDIR => Operation::Fsyncdir,
        opcode::STATFS => Operation::Statfs,
        opcode => Operation::Unknown { opcode },
    })
}

fn rename(fields: &mut Fields, new_parent: u64, flags: u32) -> Result<Operation, Errno> {
    Ok(Operation::Rename {
        new_parent,
        flags,
        name: fields.name()?,
        new_name: fields.name()?,
    })
}

/// What follows the header, read from front to back.
struct Fields {
    rest: Bytes,
}

impl Fields {
    fn take<T: FromBytes>(&mut self) -> Result<T, Errno> {
        let (value, rest) = T::read_from_prefix(&self.rest).map_err(|_| Errno::IO)?;
        let used = self.rest.len() - rest.len();
        self.rest = self.rest.slice(used..);
        Ok(value)
    }

    /// A name that ends with NUL. Keys are UTF-8, so a name that is not cannot be stored (EILSEQ).
    fn name(&mut self) -> Result<String, Errno> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Errno::IO)?;
        let name = self.rest.split_to(end);
        self.rest = self.rest.slice(1..);
        String::from_utf8(name.to_vec()).map_err(|_| Errno::ILSEQ)
    }
}

/// Seconds and nanoseconds since the epoch; times before it are the epoch.
pub(crate) fn since_epoch(time: SystemTime) -> (u64, u32) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn bytes(opcode: u32, unique: u64, body: &[u8]) -> Bytes {
        let header = InHeader {
            opcode,
            unique,
            nodeid: 5,
            ..InHeader::default()
        };
        let mut all = header.as_bytes().to_vec();
        all.extend_from_slice(body);
        all.into()
    }

    #[test]
    fn a_rename_holds_both_names() {
        let mut body = abi::Rename2In {
            newdir: 9,
            flags: 1,
            padding: 0,
        }
        .as_bytes()
        .to_vec();
        body.extend_from_slice(b"old\0new\0");
        let request = Request::parse(&bytes(opcode::RENAME2, 7, &body)).unwrap();
        assert_eq!((request.unique, request.node, request.resent), (7, 5, false));
        let Operation::Rename {
            name,
            new_parent,
            new_name,
            flags,
        } = request.operation
        else {
            panic!("{:?}", request.operation)
        };
        assert_eq!(
            (name.as_str(), new_parent, new_name.as_str(), flags),
            ("old", 9, "new", 1)
        );
    }

    #[test]
    fn a_resent_request_keeps_its_number() {
        let request = Request::parse(&bytes(opcode::STATFS, 7 | flag::UNIQUE_RESEND, b"")).unwrap();
        assert_eq!((request.unique, request.resent), (7, true));
    }

    #[test]
    fn a_cut_request_is_refused_and_a_strange_one_has_its_number() {
        let refused = Request::parse(&bytes(opcode::READ, 3, b"short")).unwrap_err();
        assert_eq!((refused.unique, refused.errno), (3, Errno::IO));
        let strange = Request::parse(&bytes(opcode::LOOKUP, 3, b"\xff\xfe\0")).unwrap_err();
        assert_eq!(strange.errno, Errno::ILSEQ);
        let unknown = Request::parse(&bytes(4000, 3, b"")).unwrap();
        assert!(matches!(unknown.operation, Operation::Unknown { opcode: 4000 }));
    }
}
