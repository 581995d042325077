//! Layers made by chance, from a seed, of everything that a layer may have.

use super::tarball::{Entry, GID, MODE, MTIME, Tar, UID, binary, entry};

const ENTRIES: u64 = 160;
const ABOVE: u64 = 4;
const DIRECTORIES: u64 = 16;
/// Bytes of a ustar name or link target.
const NAME: usize = 100;
/// `setcap cap_net_bind_service+ep`, of the initial user namespace and of one whose root is 100000 (capabilities(7)).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NAMESPACED: [u8; 24] = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0x86, 1, 0];

/// xorshift64 (Marsaglia 2003).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    fn taken<T>(&mut self, list: &mut Vec<T>) -> T {
        let at = self.below(list.len() as u64) as usize;
        list.swap_remove(at)
    }

    /// Bytes that repeat nothing.
    fn content(&mut self, length: u64) -> Vec<u8> {
        let length = length as usize;
        let mut data: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        data.truncate(length);
        data
    }

    fn size(&mut self) -> u64 {
        match self.below(40) {
            0 => (1 << 20) + self.below(1 << 19),
            1 | 2 => (200 << 10) + self.below(400 << 10),
            _ => self.below(3000),
        }
    }

    fn name(&mut self, number: u64) -> Vec<u8> {
        let odd = *self.of(&[&b""[..], b" ", b"\xc3\xa9", b"-", b"\\", b"*", b"\xff", b"\xc3"]);
        let long = if self.below(10) == 0 { "long-".repeat(30) } else { String::new() };
        [long.as_bytes(), format!("n{number}").as_bytes(), odd].concat()
    }

    /// Pieces of whole blocks, as GNU tar makes them, the last of no length: where the file ends.
    fn pieces(&mut self, most: u64) -> (u64, Vec<(u64, Vec<u8>)>) {
        let (mut at, mut pieces) = (0, Vec::new());
        for _ in 0..1 + self.below(most) {
            at += 512 * self.below(200);
            let blocks = 1 + self.below(6);
            let data = self.content(512 * blocks);
            let end = at + data.len() as u64;
            pieces.push((at, data));
            at = end;
        }
        let size = at + (1 << 20) + self.below(1 << 20);
        pieces.push((size, Vec::new()));
        (size, pieces)
    }
}

/// Everything that is said of an entry before it is written.
struct Dressed {
    made: Entry,
    records: Vec<(&'static str, Vec<u8>)>,
    /// What no field of 100 bytes holds, in GNU's way.
    long: Vec<(u8, Vec<u8>)>,
}

impl Dressed {
    fn new(made: Entry) -> Self {
        Self { made, records: Vec::new(), long: Vec::new() }
    }

    fn say(mut self, key: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.records.push((key, value.into()));
        self
    }

    /// A name that is long, or that a writer says in a header of its own for whatever reason.
    fn named(self, chance: &mut Chance, name: &[u8]) -> Self {
        self.text(chance, name, "path", b'L')
    }

    fn linked(mut self, chance: &mut Chance, target: &[u8]) -> Self {
        self.made = self.made.link(target);
        self.text(chance, target, "linkpath", b'K')
    }

    fn text(mut self, chance: &mut Chance, text: &[u8], key: &'static str, kind: u8) -> Self {
        let needs = text.len() > NAME || chance.below(12) == 0;
        match chance.below(2) {
            _ if !needs => {}
            0 => self.records.push((key, text.to_vec())),
            _ => self.long.push((kind, text.to_vec())),
        }
        self
    }

    /// An owner and a time, each in one of the ways to say it.
    fn owned(mut self, chance: &mut Chance) -> Self {
        let made = self.made;
        self.made = match chance.below(6) {
            0 => made.field(UID, binary(3_000_000_000, 8)).field(GID, binary(3_000_000_001, 8)),
            1 => {
                let owner = 2_200_000_000 + chance.below(2_000_000_000);
                self.records.push(("uid", owner.to_string().into_bytes()));
                self.records.push(("gid", (owner - 1).to_string().into_bytes()));
                made
            }
            _ => {
                let owner = [0, 1, 1000, 65534, 2_000_000];
                made.number(UID, *chance.of(&owner)).number(GID, *chance.of(&owner))
            }
        };
        // Before 1970 and after 2038 as often as between, up to 2255.
        let (nanos, late) = (chance.below(1_000_000_000), 2_200_000_000 + chance.below(6_800_000_000));
        let (seconds, early) = (chance.below(2_000_000_000), -1 - chance.below(2_000_000_000) as i64);
        match chance.below(8) {
            0 => self.say("mtime", format!("{early}.{nanos:09}")),
            1 => self.say("mtime", format!("{early}")),
            2 => self.say("mtime", format!("-0.{nanos:09}")),
            3 => self.say("mtime", format!("{late}.{nanos:09}")),
            4 => {
                self.made = self.made.field(MTIME, binary(early.into(), 12));
                self
            }
            5 => {
                self.made = self.made.field(MTIME, binary(late.into(), 12));
                self
            }
            _ => self.say("mtime", format!("{seconds}.{nanos:09}")),
        }
    }

    /// What a file or a directory may have beside it.
    fn attributed(mut self, chance: &mut Chance, is_file: bool) -> Self {
        if chance.below(4) == 0 {
            let value = format!("v\n{}", chance.below(1000));
            self = self.say("SCHILY.xattr.user.note", value);
        }
        if chance.below(8) == 0 {
            self = self.say("SCHILY.xattr.trusted.note", chance.content(30));
        }
        match chance.below(12) {
            0 if is_file => self.say("SCHILY.xattr.security.capability", CAPABILITY),
            1 if is_file => self.say("SCHILY.xattr.security.capability", NAMESPACED),
            _ => self,
        }
    }

    /// The headers before it.
    fn headers(self, tar: Tar) -> (Tar, Entry) {
        let records: Vec<(&str, &[u8])> =
            self.records.iter().map(|(key, value)| (*key, &value[..])).collect();
        let tar = if records.is_empty() { tar } else { tar.pax(&records) };
        (self.long.iter().fold(tar, |tar, (kind, text)| tar.long(*kind, text)), self.made)
    }

    fn write(self, tar: Tar) -> Tar {
        let (tar, made) = self.headers(tar);
        tar.entry(made)
    }
}

/// In GNU tar's three PAX formats, by number.
fn sparse(chance: &mut Chance, name: &str, minor: u64) -> Dressed {
    let (size, pieces) = chance.pieces(30);
    let size = size.to_string();
    let (count, numbers): (_, Vec<String>) = (
        pieces.len().to_string(),
        pieces.iter().flat_map(|(at, data)| [at.to_string(), data.len().to_string()]).collect(),
    );
    let data: Vec<u8> = pieces.into_iter().flat_map(|(_, data)| data).collect();
    let stands_for = format!("GNUSparseFile.7/{name}");
    let named = |name: &str, data: Vec<u8>| Dressed::new(entry(b'0', name).data(data));
    match minor {
        0 => {
            let whole = named(name, data).say("GNU.sparse.size", size).say("GNU.sparse.numblocks", count);
            numbers.chunks(2).fold(whole, |made, pair| {
                made.say("GNU.sparse.offset", pair[0].clone()).say("GNU.sparse.numbytes", pair[1].clone())
            })
        }
        1 => named(&stands_for, data)
            .say("GNU.sparse.size", size)
            .say("GNU.sparse.numblocks", count)
            .say("GNU.sparse.name", name)
            .say("GNU.sparse.map", numbers.join(",")),
        _ => {
            let mut map = format!("{count}\n{}\n", numbers.join("\n")).into_bytes();
            map.resize(map.len().next_multiple_of(512), 0);
            named(&stands_for, [map, data].concat())
                .say("GNU.sparse.major", "1")
                .say("GNU.sparse.minor", "0")
                .say("GNU.sparse.name", name)
                .say("GNU.sparse.realsize", size)
        }
    }
}

/// Names that a later entry may mean, and those that it may not.
#[derive(Default)]
struct Names {
    directories: Vec<Vec<u8>>,
    /// Also hard links.
    files: Vec<Vec<u8>>,
    /// Whatever else can be replaced.
    others: Vec<Vec<u8>>,
    /// Made for what is in them, and not named yet.
    unnamed: Vec<Vec<u8>>,
}

/// A layer without its end mark.
pub(super) fn layer(seed: u64) -> Tar {
    let mut chance = Chance::new(seed);
    let (mut tar, mut names) = (Tar::new(), Names::default());
    names.directories.push(Vec::new());
    for number in 0..ENTRIES {
        tar = any(tar, &mut chance, &mut names, number);
    }
    // Each is named in the end: with its time and mode, whatever was put into it before.
    for name in std::mem::take(&mut names.unnamed) {
        tar = directory(tar, &mut chance, &name);
    }
    for minor in 0..3 {
        let name = format!("sparse-{minor}");
        tar = sparse(&mut chance, &name, minor).owned(&mut chance).attributed(&mut chance, true).write(tar);
    }
    tar
}

const MODES: [u64; 7] = [0o644, 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0];

fn directory(tar: Tar, chance: &mut Chance, name: &[u8]) -> Tar {
    let made = entry(b'5', name).number(MODE, *chance.of(&MODES));
    Dressed::new(made).named(chance, name).owned(chance).attributed(chance, false).write(tar)
}

fn any(tar: Tar, chance: &mut Chance, names: &mut Names, number: u64) -> Tar {
    let parent = chance.of(&names.directories).clone();
    let name = [parent, chance.name(number)].concat();
    match chance.below(20) {
        0 | 1 => {
            let name = [&name[..], b"/"].concat();
            let tar = directory(tar, chance, &name);
            names.directories.push(name);
            tar
        }
        // Named again, with whatever it is to have now.
        2 if names.directories.len() > 1 => {
            let at = 1 + chance.below(names.directories.len() as u64 - 1);
            directory(tar, chance, &names.directories[at as usize])
        }
        // A file in a directory that is named later; at the top, whose time nobody compares.
        3 => {
            let later = [&chance.name(number)[..], b"/"].concat();
            names.unnamed.push(later.clone());
            let name = [later, chance.name(number)].concat();
            file(tar, chance, names, name)
        }
        4 if !names.unnamed.is_empty() => {
            let name = chance.taken(&mut names.unnamed);
            let tar = directory(tar, chance, &name);
            names.directories.push(name);
            tar
        }
        5..=8 => {
            names.others.push(name.clone());
            other(tar, chance, name)
        }
        9..=11 if !names.files.is_empty() => hard(tar, chance, names, name),
        // A file again, in place of the one before.
        12 if !names.files.is_empty() => {
            let again = chance.taken(&mut names.files);
            file(tar, chance, names, again)
        }
        13 if !names.files.is_empty() => {
            let was_a_file = chance.taken(&mut names.files);
            replaced(tar, chance, names, was_a_file)
        }
        14 if !names.others.is_empty() => {
            let was_another = chance.taken(&mut names.others);
            replaced(tar, chance, names, was_another)
        }
        _ => file(tar, chance, names, name),
    }
}

fn file(tar: Tar, chance: &mut Chance, names: &mut Names, name: Vec<u8>) -> Tar {
    let length = chance.size();
    let made = entry(b'0', &name).number(MODE, *chance.of(&MODES)).data(chance.content(length));
    names.files.push(name.clone());
    Dressed::new(made).named(chance, &name).owned(chance).attributed(chance, true).write(tar)
}

/// A link, a fifo, or a node.
fn other(tar: Tar, chance: &mut Chance, name: Vec<u8>) -> Tar {
    let mode = *chance.of(&MODES);
    let made = match chance.below(4) {
        0 => {
            let mut target = [&b"../"[..], &chance.name(0)].concat();
            if chance.below(3) == 0 {
                target.extend(b"/\xff".repeat(60));
            }
            Dressed::new(entry(b'2', &name).number(MODE, 0o777)).linked(chance, &target)
        }
        1 => Dressed::new(entry(b'6', &name).number(MODE, mode)),
        2 => {
            Dressed::new(entry(b'4', &name).number(MODE, mode).device(1 + chance.below(300), chance.below(9)))
        }
        _ => Dressed::new(entry(b'3', &name).number(MODE, mode).device(1, 1 + chance.below(8))),
    };
    made.named(chance, &name).owned(chance).write(tar)
}

/// Of a file, or of another link to one; what the entry says beside its target is nobody's.
fn hard(tar: Tar, chance: &mut Chance, names: &mut Names, name: Vec<u8>) -> Tar {
    let target = chance.of(&names.files).clone();
    let made = entry(b'1', &name).number(MODE, *chance.of(&MODES));
    names.files.push(name.clone());
    Dressed::new(made).linked(chance, &target).named(chance, &name).owned(chance).write(tar)
}

/// Something of another kind where something was.
fn replaced(tar: Tar, chance: &mut Chance, names: &mut Names, name: Vec<u8>) -> Tar {
    match chance.below(3) {
        0 => {
            let name = [&name[..], b"/"].concat();
            let tar = directory(tar, chance, &name);
            names.directories.push(name);
            tar
        }
        1 => other(tar, chance, name),
        // From a directory with nothing in it.
        _ => {
            let tar = directory(tar, chance, &[&name[..], b"/"].concat());
            file(tar, chance, names, name)
        }
    }
}

/// A sparse file of few pieces, and some of more than one block's.
pub(super) fn old_sparse(mut tar: Tar, chance: &mut Chance) -> Tar {
    for (n, most) in [1, 3, 30, 90].into_iter().enumerate() {
        let (size, pieces) = chance.pieces(most);
        let name = format!("sparse-old-{n}");
        let dressed = Dressed::new(entry(b'S', &name)).owned(chance).attributed(chance, true);
        let (headers, made) = dressed.headers(tar);
        tar = headers.old_sparse(made, size, &pieces);
    }
    tar
}

/// A directory with something in it, and then a file in its place.
pub(super) fn over_a_full_one(tar: Tar, chance: &mut Chance) -> Tar {
    let content = chance.content(100);
    tar.dir("full/")
        .file("full/below", "below")
        .dir("full/deep/")
        .file("full/deep/er", "")
        .file("full", content)
}

/// A file, and a hard link of its name to itself.
pub(super) fn link_to_itself(tar: Tar, chance: &mut Chance) -> Tar {
    tar.file("itself", chance.content(100)).hard("itself", "./itself")
}

/// A directory with a time, and then a file in one below it that is named after.
pub(super) fn brought_along(tar: Tar, chance: &mut Chance) -> Tar {
    let content = chance.content(100);
    let timed = |name| entry(b'5', name).number(MTIME, 1_000_000);
    tar.entry(timed("within/")).file("within/brought/f", content).entry(timed("within/brought/"))
}

pub(super) fn very_late(tar: Tar, _: &mut Chance) -> Tar {
    tar.pax(&[("mtime", b"9774824972.5")]).file("late", "")
}

/// A base, and layers that hide, replace and bring back parts of it. A directory that a layer touches is named by it, as
/// builders do.
///
/// With `implied` a layer may also have something in a directory and not name that: it is as the layers below have it.
pub(super) fn stack(seed: u64, implied: bool) -> Vec<Vec<u8>> {
    let mut chance = Chance::new(seed);
    let mut base = Tar::new();
    for n in 0..DIRECTORIES {
        base = named(base, &mut chance, b'5', &format!("d{n}/"), 1000 + n);
        for part in ["f0", "f1", "f2"] {
            base = filled(base, &mut chance, &format!("d{n}/{part}"), &format!("{part} of {n}"), 2000 + n);
        }
        base = named(base, &mut chance, b'5', &format!("d{n}/s/"), 3000 + n);
        base = filled(base, &mut chance, &format!("d{n}/s/f"), &format!("below {n}"), 4000 + n);
    }
    let mut layers = vec![base.end()];
    // Nobody hides what is not there; overlayfs shows such a name in a directory that nothing is below.
    let mut is_there = [true; DIRECTORIES as usize];
    for above in 1..=ABOVE {
        let mut tar = Tar::new();
        for n in 0..DIRECTORIES {
            let (what, time) = (chance.below(8), 10_000 * above + n);
            if what == 0 {
                continue;
            }
            let was_there = is_there[n as usize];
            is_there[n as usize] = what != 1 || !was_there;
            if what == 1 && was_there {
                tar = tar.file(format!(".wh.d{n}"), "");
                continue;
            }
            if !implied || chance.below(2) == 0 {
                tar = named(tar, &mut chance, b'5', &format!("d{n}/"), time);
            }
            let mut fill =
                |tar, name: &str, data: &str| filled(tar, &mut chance, &format!("d{n}/{name}"), data, time);
            tar = match what {
                _ if !was_there => fill(tar, "f0", &format!("made in {above}")),
                2 => tar.file(format!("d{n}/.wh.f0"), ""),
                3 => tar.file(format!("d{n}/.wh.s"), ""),
                4 => fill(tar.file(format!("d{n}/.wh..wh..opq"), ""), "new", &format!("new in {above}")),
                // What was a directory is a file, and the other way round.
                5 => fill(tar, "s", &format!("no directory in {above}")),
                6 => {
                    let tar = named(tar, &mut chance, b'5', &format!("d{n}/f1/"), time);
                    filled(tar, &mut chance, &format!("d{n}/f1/f"), &format!("within in {above}"), time)
                }
                // Hidden and there again, in one layer.
                _ => fill(tar.file(format!("d{n}/.wh.f2"), ""), "f2", &format!("again in {above}")),
            };
        }
        layers.push(tar.end());
    }
    layers
}

fn named(tar: Tar, chance: &mut Chance, kind: u8, name: &str, time: u64) -> Tar {
    worn(tar, chance, entry(kind, name).number(MTIME, time), false)
}

fn filled(tar: Tar, chance: &mut Chance, name: &str, data: &str, time: u64) -> Tar {
    worn(tar, chance, entry(b'0', name).data(data).number(MTIME, time), true)
}

/// Perhaps of another mode and owner than usual, and with attributes.
fn worn(tar: Tar, chance: &mut Chance, mut made: Entry, is_file: bool) -> Tar {
    if chance.below(3) == 0 {
        made = made.number(MODE, *chance.of(&MODES)).number(UID, chance.below(2000));
    }
    Dressed::new(made).attributed(chance, is_file).write(tar)
}
