//! A [`Storage`] in memory that crashes: each file has a live image and a durable one. At a crash, of what
//! was not synced each sector may or may not have reached the disk.

use super::storage::{Storage, StorageFile};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const SECTOR: usize = 512;

#[derive(Default, Clone)]
struct Image {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ, or differed, from the durable image.
    pending: std::collections::BTreeSet<usize>,
    name_is_durable: bool,
    /// The durable name, until the one that it was given since is durable.
    was: Option<String>,
}

#[derive(Default)]
struct World {
    files: BTreeMap<String, Image>,
    /// Sync points passed so far.
    syncs: usize,
    crash_at: Option<usize>,
    renames: usize,
    crashed: bool,
    /// Every access is an I/O error.
    broken: bool,
    /// The directory is not where it was.
    away: bool,
}

#[derive(Clone, Default)]
pub struct CrashingStorage {
    world: Arc<Mutex<World>>,
}

struct CrashingFile {
    world: Arc<Mutex<World>>,
    name: String,
}

fn power_is_off() -> io::Error {
    io::Error::other("power is off")
}

impl World {
    fn on(&self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        if self.crashed { Err(power_is_off()) } else { Ok(()) }
    }

    /// A sync point: the crash may come here, before anything has become durable.
    fn sync_point(&mut self) -> io::Result<()> {
        self.on()?;
        self.syncs += 1;
        self.crashed = self.crash_at == Some(self.syncs);
        self.on()
    }

    fn image(&mut self, name: &str) -> io::Result<&mut Image> {
        self.on()?;
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Image {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.pending.extend(offset / SECTOR..=(end - 1) / SECTOR);
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.live);
        self.pending.clear();
    }

    /// What is there after the crash.
    fn survive(&mut self, rng: &mut StdRng) {
        let odds = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        let mut image = std::mem::take(&mut self.durable);
        for sector in std::mem::take(&mut self.pending) {
            let from = sector * SECTOR;
            let to = self.live.len().min(from + SECTOR);
            if rng.random_bool(odds) && from < to {
                if image.len() < to {
                    image.resize(to, 0);
                }
                image[from..to].copy_from_slice(&self.live[from..to]);
            }
        }
        self.live.clone_from(&image);
        self.durable = image;
    }
}

impl CrashingStorage {
    /// Sync points so far.
    pub fn syncs(&self) -> usize {
        self.world.lock().syncs
    }

    /// Files that were given another name so far.
    pub fn renames(&self) -> usize {
        self.world.lock().renames
    }

    /// Crashes at the `n`th sync point from the beginning.
    pub fn crash_at(&self, n: usize) {
        self.world.lock().crash_at = Some(n);
    }

    /// Cuts a file off, behind everybody's back.
    pub fn truncate(&self, name: &str, len: usize) {
        if let Some(image) = self.world.lock().files.get_mut(name) {
            image.live.truncate(len);
            image.durable.truncate(len);
        }
    }

    /// Every access is an I/O error from now on.
    pub fn fail(&self) {
        self.world.lock().broken = true;
    }

    /// The directory is taken away.
    pub fn take_away(&self) {
        let mut world = self.world.lock();
        world.away = true;
        world.files.clear();
    }

    pub fn has_crashed(&self) -> bool {
        self.world.lock().crashed
    }

    /// The machine is off; what survives is what the next start finds.
    pub fn after_power_loss(&self, rng: &mut StdRng) -> Self {
        let mut files = self.world.lock().files.clone();
        let mut back = BTreeMap::new();
        files.retain(|_, f| {
            if f.name_is_durable || rng.random_bool(0.5) {
                return true;
            }
            if let Some(was) = f.was.take() {
                back.insert(was, f.clone());
            }
            false
        });
        for (name, file) in back {
            files.entry(name).or_insert(file);
        }
        files.values_mut().for_each(|f| {
            f.survive(rng);
            (f.name_is_durable, f.was) = (true, None);
        });
        Self { world: Arc::new(Mutex::new(World { files, ..World::default() })) }
    }

    /// The process is gone, the machine is not: everything written is still there.
    pub fn after_kill(&self) -> Self {
        let files = self.world.lock().files.clone();
        Self { world: Arc::new(Mutex::new(World { files, ..World::default() })) }
    }
}

impl StorageFile for CrashingFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.world.lock();
        let live = &world.image(&self.name)?.live;
        let from = live.len().min(offset as usize);
        let n = into.len().min(live.len() - from);
        into[..n].copy_from_slice(&live[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.world.lock().image(&self.name)?.write(&parts.concat(), offset as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        world.sync_point()?;
        world.image(&self.name)?.sync();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let image = world.image(&self.name)?;
        let end = image.live.len().min((offset + len) as usize);
        let from = end.min(offset as usize);
        image.write(&vec![0; end - from], from);
        Ok(())
    }
}

impl Storage for CrashingStorage {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn StorageFile>> {
        let mut world = self.world.lock();
        world.on()?;
        if !world.files.contains_key(path) {
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            world.files.insert(path.into(), Image::default());
        }
        Ok(Arc::new(CrashingFile { world: self.world.clone(), name: path.into() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.on()?;
        let mut file = world.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        if file.name_is_durable {
            (file.name_is_durable, file.was) = (false, Some(from.into()));
        }
        world.files.insert(to.into(), file);
        world.renames += 1;
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.on()?;
        world.files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let world = self.world.lock();
        world.on()?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut names: Vec<String> = world
            .files
            .keys()
            .filter_map(|k| k.strip_prefix(&prefix))
            .filter_map(|k| k.split('/').next().map(str::to_owned))
            .collect();
        names.dedup();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.sync_point()?;
        for (name, file) in &mut world.files {
            let parent = name.rsplit_once('/').map_or("", |(d, _)| d);
            if parent == dir {
                (file.name_is_durable, file.was) = (true, None);
            }
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        world.sync_point()?;
        for file in world.files.values_mut() {
            file.sync();
            (file.name_is_durable, file.was) = (true, None);
        }
        Ok(())
    }

    fn present(&self) -> io::Result<()> {
        if self.world.lock().away { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 39))
    }
}
