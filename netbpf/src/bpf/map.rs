//! A pinned map, typed by its one definition in [`netbpf_common::maps`].

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    slice::ChunksExact,
};

use aya::{
    Pod,
    maps::{MapData, MapType},
};
use netbpf_common::maps::MapDef;
use nix::libc;

use super::{
    pins,
    sys::{self, Batch, Position},
};
use crate::error::{Context as _, Error, Result};

/// Elements that a batch look-up asks for at a time: enough to make the system
/// call's price vanish, and little enough to stay in the second-level cache.
const BATCH: usize = 1024;

/// An open map.
///
/// Its key and value sizes were compared with those of the definition when it
/// was opened, and it is not a per-CPU map: that is what makes every access sound.
pub struct Map<D: MapDef> {
    data: MapData,
    def: PhantomData<D>,
}

impl<D: MapDef> fmt::Debug for Map<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} {:?})", D::NAME, self.data.fd())
    }
}

/// What went wrong with which map.
fn failed<D: MapDef>(doing: &str, error: &io::Error) -> Error {
    let failed = Error::failed(format!("cannot {doing} map {}", D::NAME)).because(error);
    if error.raw_os_error() == Some(libc::E2BIG) {
        return failed.hint("the map is full");
    }
    failed
}

/// Opens a pinned map and compares its key and value with the definition's.
fn open<D: MapDef>(pin_dir: &Path, key: usize, value: usize) -> Result<(MapData, MapType)> {
    let data = MapData::from_pin(pins::map(pin_dir, D::NAME)).map_err(|error| {
        pins::damaged(pin_dir, &format!("its map {} cannot be opened: {error}", D::NAME))
    })?;
    let info = data.info().context(format!("cannot ask about map {}", D::NAME))?;
    let (has_key, has_value) = (info.key_size() as usize, info.value_size() as usize);
    if (has_key, has_value) != (key, value) {
        return Err(pins::other_version(
            pin_dir,
            &format!(
                "its map {} has keys of {has_key} and values of {has_value} bytes, \
                 this netbpf's have {key} and {value}",
                D::NAME
            ),
        ));
    }
    let map_type = info.map_type().context(format!("cannot tell the type of map {}", D::NAME))?;
    Ok((data, map_type))
}

impl<D: MapDef> AsFd for Map<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }
}

impl<D: MapDef<Key: Pod, Value: Pod>> Map<D> {
    /// Opens the map that is pinned below `pin_dir`.
    ///
    /// # Errors
    /// If it is not there, or its keys and values are not those of the definition.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        const { assert!(size_of::<D::Key>() <= Position::SIZE) };
        let (data, map_type) = open::<D>(pin_dir, size_of::<D::Key>(), size_of::<D::Value>())?;
        if is_per_cpu(map_type) {
            return Err(pins::other_version(pin_dir, &format!("its map {} is per CPU", D::NAME)));
        }
        Ok(Self { data, def: PhantomData })
    }

    /// The element's value; nothing if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&self, key: &D::Key) -> Result<Option<D::Value>> {
        // SAFETY: `open` has compared the sizes and refused per-CPU maps.
        unsafe { sys::lookup(self.as_fd(), key) }.map_err(|error| failed::<D>("read", &error))
    }

    /// Inserts or replaces an element.
    ///
    /// # Errors
    /// What the kernel says, that the map is full among it.
    pub fn set(&self, key: &D::Key, value: &D::Value) -> Result<()> {
        // SAFETY: `open` has compared the sizes and refused per-CPU maps.
        unsafe { sys::update(self.as_fd(), key, std::slice::from_ref(value)) }
            .map_err(|error| failed::<D>("write", &error))
    }

    /// Inserts an element; false if there is one of that key.
    ///
    /// # Errors
    /// What the kernel says, that the map is full among it.
    pub fn insert(&self, key: &D::Key, value: &D::Value) -> Result<bool> {
        // SAFETY: `open` has compared the sizes and refused per-CPU maps.
        unsafe { sys::insert(self.as_fd(), key, value) }
            .map_err(|error| failed::<D>("write", &error))
    }

    /// Replaces an element; false if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn replace(&self, key: &D::Key, value: &D::Value) -> Result<bool> {
        // SAFETY: `open` has compared the sizes and refused per-CPU maps.
        unsafe { sys::replace(self.as_fd(), key, value) }
            .map_err(|error| failed::<D>("write", &error))
    }

    /// Inserts or replaces elements, as many as there are keys.
    ///
    /// # Errors
    /// What the kernel says, that the map is full among it; then some are there.
    pub(super) fn set_all(&self, keys: &[D::Key], values: &[D::Value]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        // SAFETY: `open` has compared the sizes and refused per-CPU maps.
        unsafe { sys::update_batch(self.as_fd(), keys, values) }
            .map_err(|error| failed::<D>("write", &error))
    }

    /// Deletes an element; false if there was none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, key: &D::Key) -> Result<bool> {
        // SAFETY: `open` has compared the sizes.
        unsafe { sys::delete(self.as_fd(), key) }
            .map_err(|error| failed::<D>("delete from", &error))
    }

    /// Calls `visit` with every element.
    ///
    /// Elements that come and go meanwhile may or may not be among them. No
    /// element must be deleted from inside `visit`: where the kernel has no
    /// batch look-up the walk would begin anew.
    ///
    /// # Errors
    /// What the kernel says, and the first error of `visit`, which ends the walk.
    pub fn for_each(&self, mut visit: impl FnMut(&D::Key, &D::Value) -> Result<()>) -> Result<()> {
        self.for_each_batch(|keys, values| {
            keys.iter().zip(values).try_for_each(|(key, value)| visit(key, value))
        })
    }

    /// [`Map::for_each`], some elements at a time: keys and their values.
    ///
    /// # Errors
    /// What the kernel says, and the first error of `visit`, which ends the walk.
    pub(super) fn for_each_batch(
        &self,
        mut visit: impl FnMut(&[D::Key], &[D::Value]) -> Result<()>,
    ) -> Result<()> {
        let mut keys: Vec<D::Key> = Vec::with_capacity(BATCH);
        let mut values: Vec<D::Value> = Vec::with_capacity(BATCH);
        let mut position = None;
        loop {
            // SAFETY: `open` has compared the sizes, refused per-CPU maps and
            // bounded the key's.
            let batch = unsafe {
                sys::lookup_batch(self.as_fd(), position.as_ref(), &mut keys, &mut values)
            };
            match batch.map_err(|error| failed::<D>("read", &error))? {
                Batch::More(next) => position = Some(next),
                Batch::End => return visit(&keys, &values),
                Batch::TooSmall => {
                    keys.reserve(2 * keys.capacity());
                    values.reserve(2 * values.capacity());
                    continue;
                }
                Batch::Unsupported => return self.for_each_key(visit),
            }
            visit(&keys, &values)?;
        }
    }

    /// [`Map::for_each_batch`] with two system calls an element.
    fn for_each_key(
        &self,
        mut visit: impl FnMut(&[D::Key], &[D::Value]) -> Result<()>,
    ) -> Result<()> {
        let mut last: Option<D::Key> = None;
        loop {
            // SAFETY: `open` has compared the sizes.
            let next = unsafe { sys::next_key(self.as_fd(), last.as_ref()) };
            let Some(key) = next.map_err(|error| failed::<D>("read", &error))? else {
                return Ok(());
            };
            // Gone between the two calls: nothing to visit.
            if let Some(value) = self.get(&key)? {
                visit(&[key], &[value])?;
            }
            last = Some(key);
        }
    }
}

/// An open queue, its values' size and its type compared when it was opened.
pub(super) struct Queue<D: MapDef> {
    data: MapData,
    def: PhantomData<D>,
}

impl<D: MapDef<Value: Pod>> Queue<D> {
    /// Opens the queue that is pinned below `pin_dir`.
    ///
    /// # Errors
    /// If it is not there, or not what the definition says.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        let (data, map_type) = open::<D>(pin_dir, 0, size_of::<D::Value>())?;
        if !matches!(map_type, MapType::Queue) {
            return Err(pins::other_version(pin_dir, &format!("its map {} is no queue", D::NAME)));
        }
        Ok(Self { data, def: PhantomData })
    }

    /// Appends an element.
    ///
    /// # Errors
    /// What the kernel says, that the queue is full among it.
    pub(super) fn push(&self, value: &D::Value) -> Result<()> {
        // SAFETY: `open` has compared the value's size and the type.
        unsafe { sys::push(self.data.fd().as_fd(), value) }
            .map_err(|error| failed::<D>("write", &error))
    }

    /// Takes the first element; nothing if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn pop(&self) -> Result<Option<D::Value>> {
        // SAFETY: `open` has compared the value's size and the type.
        unsafe { sys::pop(self.data.fd().as_fd()) }.map_err(|error| failed::<D>("read", &error))
    }
}

/// An open per-CPU map, its sizes and type compared when it was opened.
pub struct PerCpuMap<D: MapDef> {
    data: MapData,
    cpus: usize,
    def: PhantomData<D>,
}

impl<D: MapDef> fmt::Debug for PerCpuMap<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerCpuMap({} {:?})", D::NAME, self.data.fd())
    }
}

impl<D: MapDef<Key: Pod, Value: Pod>> PerCpuMap<D> {
    /// Opens the map that is pinned below `pin_dir`.
    ///
    /// # Errors
    /// If it is not there, or not what the definition says.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        // The kernel rounds the space of each CPU's value up to eight bytes.
        const { assert!(size_of::<D::Value>().is_multiple_of(8)) };
        let (data, map_type) = open::<D>(pin_dir, size_of::<D::Key>(), size_of::<D::Value>())?;
        if !is_per_cpu(map_type) {
            return Err(pins::other_version(
                pin_dir,
                &format!("its map {} is not per CPU", D::NAME),
            ));
        }
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| Error::failed(format!("cannot read {path}")).because(error))?;
        Ok(Self { data, cpus, def: PhantomData })
    }

    /// The element's values, one per possible CPU; nothing if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&self, key: &D::Key) -> Result<Option<Vec<D::Value>>> {
        let mut values = Vec::with_capacity(self.cpus);
        // SAFETY: `open` has compared the sizes; there is room for a value per
        // possible CPU, each a multiple of eight bytes long.
        let hit = unsafe { sys::lookup_into(self.data.fd().as_fd(), key, values.as_mut_ptr()) }
            .map_err(|error| failed::<D>("read", &error))?;
        if !hit {
            return Ok(None);
        }
        // SAFETY: the kernel has written a value per possible CPU, and any
        // bytes make a valid `Pod`.
        unsafe { values.set_len(self.cpus) };
        Ok(Some(values))
    }

    /// Sets the element's value of every CPU.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set(&self, key: &D::Key, value: &D::Value) -> Result<()> {
        // SAFETY: `open` has compared the sizes; there is a value per possible
        // CPU, each a multiple of eight bytes long.
        unsafe { sys::update(self.data.fd().as_fd(), key, &vec![*value; self.cpus]) }
            .map_err(|error| failed::<D>("write", &error))
    }
}

/// An open map of another layout: bytes.
pub(super) struct Raw {
    data: MapData,
    name: &'static str,
    /// Bytes of a key and of a value.
    size: (usize, usize),
}

impl Raw {
    /// Opens the map of that name that is pinned below `pin_dir`.
    ///
    /// # Errors
    /// It is not there, or it cannot be read as bytes.
    pub(super) fn open(pin_dir: &Path, name: &'static str) -> Result<Self> {
        let what = || format!("cannot open map {name}");
        let data = MapData::from_pin(pins::map(pin_dir, name)).context(what())?;
        let info = data.info().context(what())?;
        let size = (info.key_size() as usize, info.value_size() as usize);
        let is_plain = info.map_type().is_ok_and(|map_type| !is_per_cpu(map_type));
        if !is_plain || size.0 == 0 || size.0 > Position::SIZE || size.1 == 0 {
            return Err(Error::failed(what()).because("it is not laid out as any that is known"));
        }
        Ok(Self { data, name, size })
    }

    /// Calls `visit` with all elements, some at a time: keys, and as many values.
    ///
    /// # Errors
    /// What the kernel says, and the first error of `visit`, which ends the walk.
    pub(super) fn for_each_batch(
        &self,
        mut visit: impl FnMut(ChunksExact<'_, u8>, ChunksExact<'_, u8>) -> Result<()>,
    ) -> Result<()> {
        let (key, value) = self.size;
        let what = || format!("cannot read map {}", self.name);
        let mut room = BATCH;
        let mut position = None;
        loop {
            let (mut keys, mut values) = (vec![0_u8; room * key], vec![0_u8; room * value]);
            let most = u32::try_from(room).unwrap_or(u32::MAX);
            // SAFETY: there is room for so many of both, the key is not too long and the
            // map none per CPU: `open` has looked.
            let read = unsafe {
                let (keys, values) = (keys.as_mut_ptr(), values.as_mut_ptr());
                sys::lookup_batch_into(
                    self.data.fd().as_fd(),
                    position.as_ref(),
                    keys,
                    values,
                    most,
                )
            };
            let (batch, count) = read.context(what())?;
            let (keys, values) = (&keys[..count * key], &values[..count * value]);
            match batch {
                Batch::More(next) => position = Some(next),
                Batch::End => return visit(keys.chunks_exact(key), values.chunks_exact(value)),
                Batch::TooSmall => {
                    room *= 2;
                    continue;
                }
                Batch::Unsupported => {
                    return Err(Error::failed(what()).because("it has no batches of elements"));
                }
            }
            visit(keys.chunks_exact(key), values.chunks_exact(value))?;
        }
    }
}

/// Whether an element has a value for each CPU.
fn is_per_cpu(map_type: MapType) -> bool {
    matches!(map_type, MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash)
}
