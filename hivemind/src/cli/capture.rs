//! `hivemind capture`: the packets of an instance, on the terminal or in a file for Wireshark and tcpdump.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use futures::{FutureExt, TryStreamExt};
use hivemind_ebpf::packet::{self, Bytes, FIRST, LATER, Packet};

use super::{
    Context, complete,
    instance::{Meant, resolve},
    interrupted,
    output::Format,
    pcapng::PcapNg,
};
use crate::{
    api::{
        capture::{CaptureKind, PacketView},
        flow_view::FlowVerdict,
        view::InstanceView,
    },
    client::CaptureInstanceArgs,
    model::{ErrorCode, Problem},
};

/// Shown beneath `hivemind capture --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind capture web-4k2hq                            a line for each packet, until Ctrl-C
  hivemind capture web --dropped                        only what is dropped, and why
  hivemind capture web --port 80 --count 20 -w web.pcapng
  hivemind capture web -w - | tcpdump -r -              or: | wireshark -k -i -
An app stands for its instance if it has just one. Packets are shown as the instance sends and gets them; in a file, why
a packet was dropped is its comment. What is lost because it came too fast is said at the end.";

/// The flags of TCP, by their bits.
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CaptureArgs {
    /// Instance by name or id, or an app that has just one
    #[arg(value_name = "INSTANCE", add = complete::targets())]
    target: String,
    /// Write pcapng to this file; '-' is standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many packets
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Keep at most so many bytes of a packet
    #[arg(long, value_name = "BYTES", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    snaplen: u32,
    /// Only what is dropped
    #[arg(long)]
    dropped: bool,
    /// Only TCP, UDP and SCTP with this port at one end
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only this protocol: tcp, udp, icmp, sctp, or a number
    #[arg(long = "proto", visible_alias = "protocol", value_name = "NAME", value_parser = protocol)]
    protocol: Option<u8>,
    /// Only with this address at one end, an instance's or a service's
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    host: Option<IpAddr>,
}

fn address(word: &str) -> Result<IpAddr, String> {
    word.parse().map_err(|_| {
        "an address as 10.88.0.7 or fd68:6d00:0:1::7, not a name or a block; 'hivemind ps' shows those of instances"
            .into()
    })
}

fn protocol(word: &str) -> Result<u8, String> {
    match word.to_ascii_lowercase().as_str() {
        "tcp" => Ok(packet::TCP),
        "udp" => Ok(packet::UDP),
        "icmp" => Ok(packet::ICMP),
        "sctp" => Ok(packet::SCTP),
        number => number.parse().ok().filter(|n| *n > 0).ok_or_else(|| "tcp, udp, icmp, sctp, or 1 to 255".into()),
    }
}

impl CaptureArgs {
    fn asked(&self) -> CaptureInstanceArgs {
        CaptureInstanceArgs {
            dropped: self.dropped,
            port: self.port.map(u32::from),
            protocol: self.protocol.map(u32::from),
            host: self.host.map(|host| host.to_string()),
            snaplen: Some(self.snaplen),
        }
    }
}

/// The instance that is meant.
async fn instance(context: &Context, word: &str) -> Result<InstanceView, Problem> {
    match resolve(context, word).await? {
        Meant::Instance(instance) => Ok(*instance),
        Meant::App(mut all) if all.len() == 1 => Ok(all.remove(0)),
        Meant::App(all) => {
            let title = format!("the app {word} has {} instances: name one", all.len());
            let problem = Problem::new(ErrorCode::Invalid, title).hint(match all.first() {
                Some(first) => format!("hivemind capture {}", first.name),
                None => format!("hivemind app info {word}"),
            });
            Err(all.iter().fold(problem, |problem, one| problem.detail(one.name.clone())))
        }
    }
}

/// Where packets go.
enum Out {
    Lines,
    Documents,
    File(Box<PcapNg<BufWriter<Box<dyn Write>>>>),
}

impl Out {
    fn open(context: &Context, args: &CaptureArgs, instance: &InstanceView) -> Result<Self, Problem> {
        let Some(path) = &args.write else {
            let documents = matches!(context.output.format, Format::Json | Format::Yaml);
            return Ok(if documents { Self::Documents } else { Self::Lines });
        };
        let out: Box<dyn Write> = if path.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                return Err(Problem::new(ErrorCode::Invalid, "a capture file is nothing for a terminal")
                    .hint(format!("hivemind capture {} -w - | tcpdump -r -", args.target)));
            }
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).map_err(|error| {
                let title = format!("cannot write the capture to {}: {error}", path.display());
                Problem::new(ErrorCode::Invalid, title).hint("name another file with -w")
            })?)
        };
        let file = PcapNg::new(BufWriter::new(out), &instance.name, args.snaplen);
        file.map(|file| Self::File(Box::new(file))).map_err(|error| unwritten(&error))
    }

    fn packet(&mut self, context: &Context, packet: &PacketView) -> Result<io::Result<()>, Problem> {
        match self {
            Self::Lines => Ok(writeln!(io::stdout(), "{}", line(packet))),
            Self::Documents => context.output.streamed(packet).map(Ok),
            Self::File(file) => Ok(file.packet(packet, comment(packet).as_deref())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Lines | Self::Documents => io::stdout().flush(),
        }
    }

    fn finish(&mut self, lost: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.finish(lost),
            other => other.flush(),
        }
    }
}

fn unwritten(error: &io::Error) -> Problem {
    Problem::new(ErrorCode::Internal, format!("the capture cannot be written: {error}"))
}

/// Ends also with Ctrl-C, as a capture does: what was captured is whole, and what was lost is said.
pub(super) async fn run(context: &Context, args: &CaptureArgs) -> Result<(), Problem> {
    let instance = instance(context, &args.target).await?;
    let mut packets = context.client.capture_instance(&context.scope, instance.id.as_str(), &args.asked()).await?;
    let mut out = Out::open(context, args, &instance)?;
    let what = if args.dropped { "what is dropped" } else { "what passes and what is dropped" };
    context.output.say(&format!("listening to {what} at {}; Ctrl-C ends it", instance.name));
    let (mut seen, mut dropped, mut lost) = (0_u64, 0_u64, 0_u64);
    let mut written = Ok(());
    let mut end = Box::pin(interrupted());
    while written.is_ok() && args.count.is_none_or(|count| seen < count) {
        let next = match packets.try_next().now_or_never() {
            Some(next) => next?,
            None => {
                // Nothing more for the moment: whoever reads gets what there is.
                written = out.flush();
                tokio::select! {
                    biased;
                    () = &mut end => break,
                    next = packets.try_next() => next?,
                }
            }
        };
        match next {
            None => break,
            Some(packet) if packet.kind == CaptureKind::Lost => lost += packet.lost,
            Some(packet) => {
                seen += 1;
                dropped += u64::from(packet.verdict == FlowVerdict::Dropped);
                written = out.packet(context, &packet)?;
            }
        }
    }
    drop(packets);
    match written.and_then(|()| out.finish(lost)) {
        // Whoever read it has enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe && !is_broken_pipe(&error) => {
            return Err(unwritten(&error));
        }
        _ => {}
    }
    context.output.say(&format!("{}: {seen} packets, {dropped} of them dropped; {lost} lost", instance.name));
    Ok(())
}

/// Whether the crate that writes files says so.
fn is_broken_pipe(error: &io::Error) -> bool {
    let mut source = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        source = error.source();
    }
    false
}

/// What became of a packet, if that is not that it passes.
fn comment(packet: &PacketView) -> Option<String> {
    if packet.answer {
        return Some("made by the data plane, to answer a packet that it dropped".into());
    }
    let reason = packet.reason.as_ref()?;
    let mut text = format!("dropped: {reason}");
    if let Some(why) = &packet.why {
        text += &format!(" ({why})");
    }
    if let (Some(policy), Some(rule)) = (&packet.policy, packet.rule) {
        text += &format!(", by rule {rule} of policy {policy}");
    }
    Some(text)
}

/// The first bytes of a packet that is longer.
struct Cut<'a>(&'a PacketView);

impl Bytes for Cut<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.data.load(offset)
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.data.words(offset)
    }

    fn len(&self) -> u32 {
        self.0.length
    }
}

/// A packet in a line.
fn line(packet: &PacketView) -> String {
    let at =
        jiff::Timestamp::from_nanosecond(packet.at_ns.into()).map_or_else(|_| String::new(), |t| format!("{t:.6}"));
    let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time);
    let became = comment(packet).unwrap_or_else(|| "passes".into());
    format!("{time} {:<3} {}  {} B  {became}", packet.direction, headers(packet), packet.length)
}

/// Addresses, protocol and flags.
fn headers(packet: &PacketView) -> String {
    let bytes = Cut(packet);
    let Some(kind) = bytes.load(packet::ETH - 2).map(u16::from_be_bytes) else { return "less than a header".into() };
    if kind == packet::ARP {
        let address =
            |at: u32| bytes.load::<4>(packet::ETH + at).map_or_else(|| "?".into(), |ip| IpAddr::from(ip).to_string());
        let asks = bytes.load::<2>(packet::ETH + 6) == Some([0, 1]);
        return format!("{} -> {} arp {}", address(14), address(24), if asks { "request" } else { "reply" });
    }
    let mut headers = Packet::BLANK;
    let read = packet::parse(&bytes, kind, &mut headers);
    let tuple = &headers.tuple;
    if tuple.src.is_none() && tuple.dst.is_none() {
        return format!("Ethernet protocol {kind:#06x}");
    }
    let ported = matches!(tuple.protocol, packet::TCP | packet::UDP | packet::SCTP) && headers.fragment != LATER;
    let end = |addr, port_be| {
        let address = IpAddr::from(addr);
        if ported { SocketAddr::new(address, u16::from_be(port_be)).to_string() } else { address.to_string() }
    };
    let mut text = format!("{} -> {} ", end(tuple.src, tuple.sport_be), end(tuple.dst, tuple.dport_be));
    text += &match tuple.protocol {
        packet::TCP => "tcp".to_owned(),
        packet::UDP => "udp".into(),
        packet::SCTP => "sctp".into(),
        packet::ICMP | packet::ICMPV6 if headers.fragment != LATER => format!("icmp type {}", headers.detail),
        packet::ICMP | packet::ICMPV6 => "icmp".into(),
        other => format!("protocol {other}"),
    };
    let flags = headers.flags();
    let named: Vec<_> =
        FLAGS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 != 0).map(|(_, name)| *name).collect();
    if !named.is_empty() {
        text += &format!(" {}", named.join(","));
    }
    match headers.fragment {
        FIRST => text += " first fragment",
        LATER => text += " fragment",
        _ if read.is_err() => text += " (not whole)",
        _ => {}
    }
    text
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
