//! A program of somebody else's: it does nothing, and lets whoever comes next decide.

use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use nix::libc;
use std::{
    ffi::CString,
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

/// `r0 = -1 (TCX_NEXT); exit`
const CODE: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
/// `BPF_PROG_TYPE_SCHED_CLS`
const CLASSIFIER: u32 = 3;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` uses.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: [u32; 2],
    name: [u8; 16],
}

/// The part that `BPF_OBJ_PIN` uses.
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Makes a call of `bpf(2)`.
///
/// # Safety
/// Addresses in `attr` must be valid for the command.
unsafe fn bpf<T>(command: i32, attr: &T) -> i32 {
    // SAFETY: `attr` lives through the call and is as long as said; the rest is the caller's.
    let made =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    assert!(made >= 0, "bpf command {command}: {}", io::Error::last_os_error());
    i32::try_from(made).expect("a descriptor")
}

/// A pinned program of somebody else's.
pub struct Foreign {
    pin: PathBuf,
}

impl Foreign {
    /// Loads it and pins it. To be called in the sandbox.
    pub fn load(pin: &str) -> Self {
        let mut attr = LoadAttr {
            kind: CLASSIFIER,
            instructions: 2,
            code: CODE.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..LoadAttr::default()
        };
        attr.name[..7].copy_from_slice(b"foreign");
        // SAFETY: code and licence live through the call.
        let fd = unsafe { bpf(5, &attr) };
        // SAFETY: the kernel has just made the descriptor for us.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = CString::new(pin).expect("a path");
        let attr = PinAttr { path: path.as_ptr() as u64, fd: fd.cast_unsigned(), flags: 0 };
        // SAFETY: the path is a C string that lives through the call.
        unsafe { bpf(6, &attr) };
        drop(program);
        Self { pin: pin.into() }
    }

    /// Attaches it by TCX, behind all that is there, for as long as the result lives.
    pub fn attach(&self, interface: &str) -> impl Sized + use<> {
        let mut program = SchedClassifier::from_pin(&self.pin).expect("a program");
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, TcAttachType::Ingress, order);
        program.take_link(id.expect("attach")).expect("a link")
    }

    /// How often it has run, as long as somebody has asked for that to be counted.
    pub fn runs(&self) -> u64 {
        ProgramInfo::from_pin(&self.pin).expect("a program").run_count()
    }

    /// The pin.
    pub fn pin(&self) -> &Path {
        &self.pin
    }
}

/// The names of the programs on ingress of an interface by TCX, in order.
pub fn on_ingress(interface: &str) -> Vec<String> {
    let (_, programs) =
        SchedClassifier::query_tcx(interface, TcAttachType::Ingress).expect("a kernel with TCX");
    programs.iter().filter_map(|one| one.name_as_str().map(str::to_owned)).collect()
}
