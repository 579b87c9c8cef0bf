//! The log as entries of systemd's journal, in its own protocol (systemd's JOURNAL_NATIVE_PROTOCOL): with a priority, and
//! with each field of the event as `HIVEMIND_<FIELD>`. The message has the fields in it as well, since that is what
//! journalctl(1) shows.
//!
//! The log never holds the daemon up. What the journal has no room for is counted and told of by the next entry that it
//! takes; while nobody listens, entries go to standard error.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest message in bytes; datagrams of some 200 kB do not pass by default.
const LONGEST: usize = 32 << 10;
/// The longest name of a field (systemd.journal-fields(7)).
const NAME: usize = 64;

/// Whether standard error is the journal: systemd names the device and inode of what it has connected
/// (`JOURNAL_STREAM`, systemd.exec(5)).
pub fn is_connected() -> bool {
    let Ok(told) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(meta) = std::fs::metadata("/proc/self/fd/2") else { return false };
    told == format!("{}:{}", meta.dev(), meta.ino())
}

/// The journal as a subscriber's layer.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Entries that had no room since the last one that had.
    lost: AtomicU64,
}

impl Journal {
    /// The journal of this machine. journald need not listen yet.
    ///
    /// # Errors
    /// If there can be no socket.
    pub fn new() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), lost: AtomicU64::new(0) })
    }

    fn send(&self, entry: &Entry, level: Level, target: &str) {
        let lost = self.lost.load(Ordering::Relaxed);
        let mut text = entry.text();
        if lost > 0 {
            let _ = write!(text, " ({lost} entries before this one were lost: the journal had no room)");
        }
        let mut data = Vec::new();
        field(&mut data, "MESSAGE", &text);
        field(&mut data, "PRIORITY", priority(level));
        field(&mut data, "SYSLOG_IDENTIFIER", "hivemind");
        field(&mut data, "TARGET", target);
        for (name, value) in &entry.fields {
            field(&mut data, &key(name), value);
        }
        match self.socket.send_to(&data, &self.path) {
            Ok(_) => {
                self.lost.fetch_sub(lost, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                // journald is started again; what systemd has connected keeps what is written.
                let _ = writeln!(io::stderr(), "{level} {text}");
            }
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let meta = event.metadata();
        self.send(&entry, *meta.level(), meta.target());
    }
}

/// An event's message and fields.
#[derive(Debug, Default)]
struct Entry {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Entry {
    /// The message with its fields, as they are on a terminal; not longer than an entry may be.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let _ = write!(text, " {name}={value}");
        }
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push_str(" ...");
        }
        text
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Syslog's number of a level.
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// A field's name in the journal: capitals, digits and `_`.
fn key(name: &str) -> String {
    let capital = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let mut key: String = "HIVEMIND_".chars().chain(name.chars().map(capital)).collect();
    key.truncate(NAME);
    key
}

/// `NAME=value`, or with its length where the value has lines.
fn field(data: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(LONGEST + 128)];
    data.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        data.push(b'\n');
        data.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        data.push(b'=');
    }
    data.extend_from_slice(value.as_bytes());
    data.push(b'\n');
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What is sent of an event.
    fn sent(say: impl FnOnce()) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("bound");
        let journal = Journal::at(&path).expect("a socket");
        journal.lost.store(2, Ordering::Relaxed);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), say);
        let mut data = vec![0; 1 << 20];
        let n = journald.recv(&mut data).expect("an entry");
        data.truncate(n);
        data
    }

    #[test]
    fn an_entry_has_priority_and_fields_and_its_message_all_of_it() {
        let data =
            sent(|| tracing::warn!(target: "net", instance = "web-1", port = 80, error = %"no\nway", "cannot open"));
        let mut expected = Vec::new();
        let lost = " (2 entries before this one were lost: the journal had no room)";
        let message = format!("cannot open instance=web-1 port=80 error=no\nway{lost}");
        expected.extend_from_slice(b"MESSAGE\n");
        expected.extend_from_slice(&(message.len() as u64).to_le_bytes());
        expected.extend_from_slice(message.as_bytes());
        expected.extend_from_slice(b"\nPRIORITY=4\nSYSLOG_IDENTIFIER=hivemind\nTARGET=net\nHIVEMIND_INSTANCE=web-1\n");
        expected.extend_from_slice(b"HIVEMIND_PORT=80\nHIVEMIND_ERROR\n\x06\0\0\0\0\0\0\0no\nway\n");
        assert_eq!(String::from_utf8_lossy(&data), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn an_entry_that_is_too_long_is_cut_and_not_lost() {
        let data = sent(|| tracing::info!("{}", "ä".repeat(1 << 20)));
        assert!(data.len() < LONGEST + 512 && data.len() > LONGEST, "{}", data.len());
    }

    #[test]
    fn what_has_no_room_is_counted_and_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("bound");
        let journal = Journal::at(&path).expect("a socket");
        let entry = Entry { message: "m".into(), fields: Vec::new() };
        // net.unix.max_dgram_qlen is 512 at most by default, usually 10.
        for _ in 0..5_000 {
            journal.send(&entry, Level::INFO, "t");
        }
        let lost = journal.lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        let mut data = [0; 4096];
        let n = journald.recv(&mut data).expect("an entry");
        assert!(n > 0);
        journal.send(&entry, Level::INFO, "t");
        assert_eq!(journal.lost.load(Ordering::Relaxed), 0, "{lost} were told of");
    }
}
