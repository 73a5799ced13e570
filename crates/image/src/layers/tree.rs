//! The directory that layers are laid into, and the only way anything is written there.
//!
//! Every path goes through [`Tree::resolve`], where the kernel resolves it with the tree as its root:
//! links, absolute ones too, lead to where they would lead a process of the guest. What is written,
//! removed or linked is then named by that directory and one part of a name, which is not followed.
//!
//! Must never hand a path of the archive to a system call in any other way.

use super::{
    Problem, TreePath,
    archive::Body,
    entry::{Meta, Node},
    problem::OnHost as _,
};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::FileExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

/// Deeper trees would take a stack and descriptors that other programs do not have either.
const MAX_DEPTH: u16 = 256;
/// Zeros so many at a time become a hole.
const CHUNK_BYTES: usize = 64 << 10;
static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
/// Renames anywhere on the host can make the kernel give up a resolution: it says to try again.
const RESOLVE_TRIES: u32 = 100;

/// A root filesystem that comes to be.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// What is known of each file, by its inode number. An inode that is used again gets a new one.
    records: HashMap<u64, Record>,
    /// The directory of the last entry. Layers go through directory after directory, and while nothing
    /// is removed, a path that led somewhere leads there again.
    last: Option<(PathBuf, Arc<Folder>)>,
    /// What files are written through.
    chunk: Vec<u8>,
}

/// A directory of the tree, held open.
#[derive(Debug)]
struct Folder {
    fd: OwnedFd,
    inode: u64,
}

/// What will be put on a file when the tree is sealed.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) meta: Meta,
    /// Directories above it.
    depth: u16,
}

/// The names that one layer made, each by its directory's inode number: whiteouts of the same layer
/// leave them alone.
#[derive(Debug, Default)]
pub(super) struct Fresh(HashSet<(u64, OsString)>);

/// A name in a directory of the tree.
struct Place<'a> {
    dir: Arc<Folder>,
    name: &'a OsStr,
}

impl Place<'_> {
    fn key(&self) -> (u64, OsString) {
        (self.dir.inode, self.name.to_owned())
    }
}

impl Tree {
    /// Takes an empty directory.
    pub(crate) fn in_dir(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
        let record = Record { meta: Meta::implied(), depth: 0 };
        let records = [(rustix::fs::fstat(&root)?.st_ino, record)].into();
        Ok(Self { root, records, last: None, chunk: vec![0; CHUNK_BYTES] })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What is known of the file with this inode number.
    pub(super) fn meta(&self, inode: u64) -> Meta {
        self.records.get(&inode).map_or_else(Meta::implied, |record| record.meta.clone())
    }

    /// Opens a file of the tree, as a process would whose root the tree is.
    pub(crate) fn open_file(&self, path: &TreePath) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(self.resolve(path.as_path(), flags)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(file)
    }

    /// Puts something in the place of what was there. A directory that was there stays, with what
    /// is in it, if a directory is put.
    pub(super) fn put(
        &mut self,
        path: &TreePath,
        node: &Node,
        meta: Meta,
        content: &mut dyn Read,
        fresh: &mut Fresh,
    ) -> Result<(), Problem> {
        let Some((dir, name)) = path.split() else { return self.put_root(node, meta) };
        let place = self.place(dir, name, fresh)?;
        let depth = self.depth_below(place.dir.inode)?;
        let inode = match make(&place, node) {
            Ok(made) => self.finish(&place, made, content)?,
            Err(Errno::EXIST) => {
                let there = look(&place.dir, name)?.ok_or(Errno::NOENT).host("look at")?;
                if *node == Node::Directory && is_dir(&there) {
                    there.st_ino
                } else {
                    self.remove(&place, &there, fresh)?;
                    let made = make(&place, node).host("make")?;
                    self.finish(&place, made, content)?
                }
            }
            Err(errno) => return Err(errno).host("make"),
        };
        self.records.insert(inode, Record { meta, depth });
        fresh.0.insert(place.key());
        Ok(())
    }

    /// Gives what was made its content; its inode number.
    fn finish(
        &mut self,
        place: &Place<'_>,
        made: Made<'_>,
        content: &mut dyn Read,
    ) -> Result<u64, Problem> {
        let found = match made {
            Made::File(file, body) => {
                fill(&file, body, content, &mut self.chunk)?;
                rustix::fs::fstat(&file).host("look at")?
            }
            Made::Other => look(&place.dir, place.name)?.ok_or(Errno::NOENT).host("make")?,
        };
        Ok(found.st_ino)
    }

    /// Removes what is there, with all that is in it.
    fn remove(
        &mut self,
        place: &Place<'_>,
        there: &Stat,
        fresh: &mut Fresh,
    ) -> Result<(), Problem> {
        self.last = None;
        remove(place, there, fresh)
    }

    fn put_root(&mut self, node: &Node, meta: Meta) -> Result<(), Problem> {
        if *node != Node::Directory {
            return Err(Problem::RootReplaced);
        }
        let inode = rustix::fs::fstat(&self.root).host("look at")?.st_ino;
        self.records.insert(inode, Record { meta, depth: 0 });
        Ok(())
    }

    /// Gives a file that is there another name.
    pub(super) fn link(
        &mut self,
        path: &TreePath,
        target: &TreePath,
        fresh: &mut Fresh,
    ) -> Result<(), Problem> {
        let shown = || target.as_path().to_string_lossy().into_owned();
        let missing = || Problem::LinkMissing { target: shown() };
        let (dir, name) = path.split().ok_or(Problem::RootReplaced)?;
        let (target_dir, target_name) =
            target.split().ok_or_else(|| Problem::LinkCircular { target: shown() })?;
        let target_dir = self.enter(target_dir).map_err(|_| missing())?;
        let found = look(&target_dir, target_name)?.ok_or_else(missing)?;
        let place = self.place(dir, name, fresh)?;
        self.depth_below(place.dir.inode)?;
        if let Some(there) = look(&place.dir, name)? {
            if is_dir(&found) || there.st_ino == found.st_ino {
                return Err(Problem::LinkCircular { target: shown() });
            }
            self.remove(&place, &there, fresh)?;
        }
        if is_dir(&found) {
            return Err(Problem::LinkCircular { target: shown() });
        }
        match rustix::fs::linkat(&target_dir.fd, target_name, &place.dir.fd, name, AtFlags::empty())
        {
            // It lay in the directory that had to go.
            Err(Errno::NOENT) => return Err(missing()),
            other => other.host("link")?,
        }
        fresh.0.insert(place.key());
        Ok(())
    }

    /// Removes what layers below put there.
    pub(super) fn hide(&mut self, path: &TreePath, fresh: &Fresh) -> Result<(), Problem> {
        let (dir, name) = path.split().ok_or(Problem::RootReplaced)?;
        let Some(dir) = self.enter_if_there(dir)? else { return Ok(()) };
        self.last = None;
        prune(&Place { dir, name }, fresh)
    }

    /// Removes everything that layers below put into a directory.
    pub(super) fn hide_below(&mut self, dir: &TreePath, fresh: &Fresh) -> Result<(), Problem> {
        let Some(dir) = self.enter_if_there(dir.as_path())? else { return Ok(()) };
        self.last = None;
        prune_inside(&dir, fresh)
    }

    fn enter_if_there(&mut self, dir: &Path) -> Result<Option<Arc<Folder>>, Problem> {
        match self.enter(dir) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Problem::Parent(errno.into())),
        }
    }

    /// A name in a directory, which is made if it is not there.
    fn place<'a>(
        &mut self,
        dir: &Path,
        name: &'a OsStr,
        fresh: &mut Fresh,
    ) -> Result<Place<'a>, Problem> {
        match self.enter(dir) {
            Ok(dir) => return Ok(Place { dir, name }),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Problem::Parent(errno.into())),
        }
        let parent = |errno: Errno| Problem::Parent(errno.into());
        let mut at = PathBuf::new();
        let mut above = self.enter(&at).map_err(parent)?;
        for part in dir {
            at.push(part);
            above = match self.enter(&at) {
                Err(Errno::NOENT) => {
                    self.imply(&Place { dir: above, name: part }, fresh)?;
                    self.enter(&at).map_err(parent)?
                }
                other => other.map_err(parent)?,
            };
        }
        Ok(Place { dir: above, name })
    }

    /// Makes a directory that no entry described.
    fn imply(&mut self, place: &Place<'_>, fresh: &mut Fresh) -> Result<(), Problem> {
        let depth = self.depth_below(place.dir.inode)?;
        // A link that leads nowhere is in the way, and refused as a parent.
        rustix::fs::mkdirat(&place.dir.fd, place.name, Mode::RWXU)
            .map_err(|errno| Problem::Parent(errno.into()))?;
        let made = look(&place.dir, place.name)?.ok_or(Errno::NOENT).host("make")?;
        self.records.insert(made.st_ino, Record { meta: Meta::implied(), depth });
        fresh.0.insert(place.key());
        Ok(())
    }

    fn depth_below(&self, dir_inode: u64) -> Result<u16, Problem> {
        let above = self.records.get(&dir_inode).map_or(0, |record| record.depth);
        if above >= MAX_DEPTH { Err(Problem::TooDeep { max: MAX_DEPTH }) } else { Ok(above + 1) }
    }

    /// Opens a directory, as a process would whose root the tree is.
    fn enter(&mut self, dir: &Path) -> Result<Arc<Folder>, Errno> {
        if let Some((path, folder)) = &self.last
            && path == dir
        {
            return Ok(Arc::clone(folder));
        }
        let fd = self.resolve(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        let folder = Arc::new(Folder::of(fd)?);
        self.last = Some((dir.to_owned(), Arc::clone(&folder)));
        Ok(folder)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..RESOLVE_TRIES {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}

impl Folder {
    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        Ok(Self { fd, inode })
    }

    /// A directory in this one, which is not followed if it is a link.
    fn child(&self, name: &OsStr) -> Result<Arc<Self>, Problem> {
        Ok(Arc::new(Self::of(open_child(&self.fd, name)?).host("look at")?))
    }
}

/// What was made under a name that was free.
enum Made<'a> {
    /// An empty file, and what is to be in it.
    File(File, &'a Body),
    /// All else, whole.
    Other,
}

/// Makes what is not there yet. Only this process may enter: what others may do comes at the end.
fn make<'a>(place: &Place<'_>, node: &'a Node) -> Result<Made<'a>, Errno> {
    let Place { dir, name } = place;
    let dir = &dir.fd;
    match node {
        Node::Directory => rustix::fs::mkdirat(dir, *name, Mode::RWXU)?,
        Node::Symlink(text) => rustix::fs::symlinkat(text, dir, *name)?,
        Node::Fifo => {
            rustix::fs::mknodat(dir, *name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        Node::File(body) => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(dir, *name, flags, Mode::RUSR | Mode::WUSR)?;
            return Ok(Made::File(file.into(), body));
        }
    }
    Ok(Made::Other)
}

/// Writes a file's data; zeros become holes.
fn fill(file: &File, body: &Body, content: &mut dyn Read, chunk: &mut [u8]) -> Result<(), Problem> {
    let mut written = 0;
    for extent in &body.extents {
        let (mut at, end) = (extent.offset, extent.offset + extent.bytes);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = &mut chunk[..wanted];
            content.read_exact(part).map_err(Problem::Unreadable)?;
            at += wanted as u64;
            if *part != ZEROS[..wanted] {
                file.write_all_at(part, at - wanted as u64).host("write")?;
                written = at;
            }
        }
    }
    // What ends with data has its size.
    if written == body.size { Ok(()) } else { file.set_len(body.size).host("write") }
}

/// Removes what is there, with all that is in it.
fn remove(place: &Place<'_>, there: &Stat, fresh: &mut Fresh) -> Result<(), Problem> {
    let flags = if is_dir(there) {
        let dir = place.dir.child(place.name)?;
        for name in names(&dir.fd)? {
            let child = Place { dir: Arc::clone(&dir), name: &name };
            if let Some(there) = look(&child.dir, &name)? {
                remove(&child, &there, fresh)?;
            }
        }
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    rustix::fs::unlinkat(&place.dir.fd, place.name, flags).host("replace")?;
    fresh.0.remove(&place.key());
    Ok(())
}

/// Removes what is there, but for what this layer made, and the directories around that.
fn prune(place: &Place<'_>, fresh: &Fresh) -> Result<(), Problem> {
    let Some(there) = look(&place.dir, place.name)? else { return Ok(()) };
    let kept = fresh.0.contains(&place.key());
    if is_dir(&there) {
        prune_inside(&place.dir.child(place.name)?, fresh)?;
        if !kept {
            match rustix::fs::unlinkat(&place.dir.fd, place.name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => {}
                other => other.host("hide")?,
            }
        }
    } else if !kept {
        rustix::fs::unlinkat(&place.dir.fd, place.name, AtFlags::empty()).host("hide")?;
    }
    Ok(())
}

fn prune_inside(dir: &Arc<Folder>, fresh: &Fresh) -> Result<(), Problem> {
    for name in names(&dir.fd)? {
        prune(&Place { dir: Arc::clone(dir), name: &name }, fresh)?;
    }
    Ok(())
}

/// What is there, without following a link.
fn look(dir: &Folder, name: &OsStr) -> Result<Option<Stat>, Problem> {
    match rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).host("look at"),
    }
}

pub(super) fn open_child(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd, Problem> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).host("open")
}

/// The names in a directory, sorted: what comes of a tree does not hang on the host's filesystem.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<OsString>, Problem> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).host("read")? {
        let name = entry.host("read")?.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn is_dir(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}
