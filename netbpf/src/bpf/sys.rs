//! The `bpf(2)` calls that the control plane makes itself.
//!
//! aya has no batch look-up and no synchronous detach, and its typed maps each
//! have an interface of their own. These few calls serve every map the same
//! way.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use aya::Pod;
use nix::libc;

/// Commands, `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    ProgDetach = 9,
    ProgGetFdById = 13,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
    MapLookupAndDelete = 21,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    LinkGetFdById = 30,
    LinkDetach = 34,
}

/// "Operation is not supported" as the kernel says it inside, `ENOTSUPP`: some
/// map types let it out where they have no batch operations.
const ENOTSUPP: i32 = 524;

/// The part of `union bpf_attr` that the element commands use.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value_or_next: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that the batch commands use.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` uses.
#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` uses.
#[repr(C)]
struct LinkAttr {
    link_fd: u32,
}

/// Makes the call; what it returns is a file descriptor, 0 or an error.
///
/// # Safety
/// Every address in `attr` must point to what the command reads or writes there.
pub(super) unsafe fn bpf<T>(command: Command, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` lives through the call and is as long as said; its
    // addresses are the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, ptr::from_mut(attr), size_of::<T>())
    };
    // A file descriptor or 0 always fits.
    i32::try_from(result).ok().filter(|n| *n >= 0).ok_or_else(io::Error::last_os_error)
}

pub(super) fn address<T>(pointer: *const T) -> u64 {
    pointer as usize as u64
}

pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().cast_unsigned()
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// `NotFound` if nothing is there, and what else `BPF_OBJ_GET` says.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: address(path.as_ptr()), bpf_fd: 0, file_flags: 0 };
    // SAFETY: `path` is a C string that lives through the call.
    let fd = unsafe { bpf(Command::ObjGet, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches a link at once. Dropping its last reference would do it some time
/// later, from a kernel worker.
///
/// # Errors
/// What `BPF_LINK_DETACH` says.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkAttr { link_fd: number(link) };
    // SAFETY: the command takes no addresses.
    unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
}

/// Looks an element up; nothing if there is none.
///
/// # Safety
/// The map's keys must be of the size of `K`; what a look-up writes (the value,
/// or for per-CPU maps one per possible CPU) must be of the size of `V`.
///
/// # Errors
/// What `BPF_MAP_LOOKUP_ELEM` says.
pub(super) unsafe fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    // SAFETY: passed on from the caller; `value` has room for one `V`.
    let hit = unsafe { lookup_into(map, key, value.as_mut_ptr()) }?;
    // SAFETY: on success the kernel has written all of the value, and any
    // bytes make a valid `Pod`.
    Ok(hit.then(|| unsafe { value.assume_init() }))
}

/// Looks an element up and writes its value to `value`; false if there is none.
///
/// # Safety
/// The map's keys must be of the size of `K`, and `value` must have room for
/// what the look-up writes: the value, or for per-CPU maps one per possible CPU.
///
/// # Errors
/// What `BPF_MAP_LOOKUP_ELEM` says.
pub(super) unsafe fn lookup_into<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: *mut V,
) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map_fd: number(map),
        pad: 0,
        key: address(ptr::from_ref(key)),
        value_or_next: address(value),
        flags: 0,
    };
    // SAFETY: the key is read, the value written, both of the sizes that the
    // caller promises.
    found(unsafe { bpf(Command::MapLookup, &mut attr) }).map(|hit| hit.is_some())
}

/// Inserts or replaces an element.
///
/// # Safety
/// The map's keys must be of the size of `K`, and the update must read no more
/// values (one, or for per-CPU maps one per possible CPU) than `values` has.
///
/// # Errors
/// What `BPF_MAP_UPDATE_ELEM` says: `E2BIG` if the map is full.
pub(super) unsafe fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    values: &[V],
) -> io::Result<()> {
    // SAFETY: passed on from the caller.
    unsafe { write(map, key, values, ANY) }
}

/// Inserts an element; false if there is one.
///
/// # Safety
/// As of [`update`].
///
/// # Errors
/// What `BPF_MAP_UPDATE_ELEM` says: `E2BIG` if the map is full.
pub(super) unsafe fn insert<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<bool> {
    // SAFETY: passed on from the caller.
    match unsafe { write(map, key, std::slice::from_ref(value), NO_EXIST) } {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Replaces an element; false if there is none.
///
/// # Safety
/// As of [`update`].
///
/// # Errors
/// What `BPF_MAP_UPDATE_ELEM` says.
pub(super) unsafe fn replace<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<bool> {
    // SAFETY: passed on from the caller.
    found(unsafe { write(map, key, std::slice::from_ref(value), EXIST) }).map(|hit| hit.is_some())
}

/// Flags of `BPF_MAP_UPDATE_ELEM`: whether there is an element already or not.
const ANY: u64 = 0;
/// There must be none.
const NO_EXIST: u64 = 1;
/// There must be one.
const EXIST: u64 = 2;

/// # Safety
/// As of [`update`].
unsafe fn write<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    values: &[V],
    flags: u64,
) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: number(map),
        pad: 0,
        key: address(ptr::from_ref(key)),
        value_or_next: address(values.as_ptr()),
        flags,
    };
    // SAFETY: key and values are only read, at the sizes that the caller promises.
    unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
}

/// Inserts or replaces as many elements as there are keys, each with its value.
///
/// # Safety
/// The map's keys must be of the size of `K`, its values of the size of `V`; it must not be
/// a per-CPU map.
///
/// # Errors
/// What `BPF_MAP_UPDATE_BATCH` says: `E2BIG` if the map is full; then some are there.
pub(super) unsafe fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys.as_ptr()),
        values: address(values.as_ptr()),
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map_fd: number(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: as many keys and values are read as both slices have, of the sizes that the
    // caller promises.
    unsafe { bpf(Command::MapUpdateBatch, &mut attr) }.map(drop)
}

/// Appends an element to a queue.
///
/// # Safety
/// The map must be a queue, its values of the size of `V`.
///
/// # Errors
/// What `BPF_MAP_UPDATE_ELEM` says: `E2BIG` if the queue is full.
pub(super) unsafe fn push<V: Pod>(queue: BorrowedFd<'_>, value: &V) -> io::Result<()> {
    let value = address(ptr::from_ref(value));
    let mut attr =
        ElementAttr { map_fd: number(queue), pad: 0, key: 0, value_or_next: value, flags: 0 };
    // SAFETY: a queue has no keys; the value is only read, at the size that the caller
    // promises.
    unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
}

/// Takes the first element from a queue; nothing if it is empty.
///
/// # Safety
/// The map must be a queue, its values of the size of `V`.
///
/// # Errors
/// What `BPF_MAP_LOOKUP_AND_DELETE_ELEM` says.
pub(super) unsafe fn pop<V: Pod>(queue: BorrowedFd<'_>) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let place = address(value.as_mut_ptr());
    let mut attr =
        ElementAttr { map_fd: number(queue), pad: 0, key: 0, value_or_next: place, flags: 0 };
    // SAFETY: a queue has no keys; the value is written, at the size that the caller
    // promises.
    let hit = found(unsafe { bpf(Command::MapLookupAndDelete, &mut attr) })?;
    // SAFETY: on success the kernel has written all of the value, and any bytes make a
    // valid `Pod`.
    Ok(hit.map(|_| unsafe { value.assume_init() }))
}

/// Deletes an element; false if there was none.
///
/// # Safety
/// The map's keys must be of the size of `K`.
///
/// # Errors
/// What `BPF_MAP_DELETE_ELEM` says.
pub(super) unsafe fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map_fd: number(map),
        pad: 0,
        key: address(ptr::from_ref(key)),
        value_or_next: 0,
        flags: 0,
    };
    // SAFETY: the key is only read, at the size that the caller promises.
    found(unsafe { bpf(Command::MapDelete, &mut attr) }).map(|hit| hit.is_some())
}

/// The key after `key`, or the first one; nothing at the end.
///
/// # Safety
/// The map's keys must be of the size of `K`.
///
/// # Errors
/// What `BPF_MAP_GET_NEXT_KEY` says.
pub(super) unsafe fn next_key<K: Pod>(
    map: BorrowedFd<'_>,
    key: Option<&K>,
) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::uninit();
    let mut attr = ElementAttr {
        map_fd: number(map),
        pad: 0,
        key: key.map_or(0, |key| address(ptr::from_ref(key))),
        value_or_next: address(next.as_mut_ptr()),
        flags: 0,
    };
    // SAFETY: the key is read and the next one written, at the size that the
    // caller promises.
    let hit = found(unsafe { bpf(Command::MapNextKey, &mut attr) })?;
    // SAFETY: on success the kernel has written the whole key, and any bytes
    // make a valid `Pod`.
    Ok(hit.map(|_| unsafe { next.assume_init() }))
}

/// Where a batch look-up goes on. The kernel keeps a bucket's number or a key in it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Position([u8; Position::SIZE]);

impl Position {
    /// Bytes in it: no key of a map that is read in batches may be longer.
    pub(super) const SIZE: usize = 64;
}

/// What a batch look-up came to.
pub(super) enum Batch {
    /// There are more elements; go on from here.
    More(Position),
    /// That was the last.
    End,
    /// The buffers are too small for the hash bucket that is next: enlarge them.
    TooSmall,
    /// This kernel cannot read this type of map in batches.
    Unsupported,
}

/// Reads elements into the vectors, as many as fit into their capacities.
///
/// # Safety
/// The map's keys must be of the size of `K`, at most [`Position::SIZE`] bytes;
/// its values of the size of `V`; it must not be a per-CPU map.
///
/// # Errors
/// What `BPF_MAP_LOOKUP_BATCH` says, but for what [`Batch`] expresses.
pub(super) unsafe fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<&Position>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<Batch> {
    keys.clear();
    values.clear();
    let room = u32::try_from(keys.capacity().min(values.capacity())).unwrap_or(u32::MAX);
    // SAFETY: the vectors have room for `room` elements of the sizes that the caller
    // promises.
    let (batch, count) =
        unsafe { lookup_batch_into(map, from, keys.as_mut_ptr(), values.as_mut_ptr(), room) }?;
    // SAFETY: the kernel has written `count` elements, at most as many as there
    // was room for, and any bytes make valid `Pod`s.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    Ok(batch)
}

/// Reads elements to where there is room for so many; returns how many there are.
///
/// # Safety
/// There must be room for as many keys and values, whatever their types are; the map's keys
/// must be of at most [`Position::SIZE`] bytes, and it must not be a per-CPU map.
///
/// # Errors
/// As [`lookup_batch`].
pub(super) unsafe fn lookup_batch_into<K, V>(
    map: BorrowedFd<'_>,
    from: Option<&Position>,
    keys: *mut K,
    values: *mut V,
    room: u32,
) -> io::Result<(Batch, usize)> {
    let mut next = Position([0; Position::SIZE]);
    let mut attr = BatchAttr {
        in_batch: from.map_or(0, |from| address(ptr::from_ref(from))),
        out_batch: address(ptr::from_mut(&mut next)),
        keys: address(keys),
        values: address(values),
        count: room,
        map_fd: number(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: there is room for `count` elements, as the caller promises; in `from` and
    // `next` for any position.
    let result = unsafe { bpf(Command::MapLookupBatch, &mut attr) };
    let batch = match result {
        Ok(_) => Batch::More(next),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Batch::End,
            Some(libc::ENOSPC) => return Ok((Batch::TooSmall, 0)),
            Some(ENOTSUPP | libc::EOPNOTSUPP) => return Ok((Batch::Unsupported, 0)),
            // The command is from kernel 5.6; where unknown, it is invalid.
            Some(libc::EINVAL) if from.is_none() => return Ok((Batch::Unsupported, 0)),
            _ => return Err(error),
        },
    };
    Ok((batch, attr.count.min(room) as usize))
}
