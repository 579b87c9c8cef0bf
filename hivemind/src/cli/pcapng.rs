//! Files of captured packets, as Wireshark and tcpdump read them: pcapng, with the reason for a drop as the packet's
//! comment.

use std::{
    borrow::Cow,
    io::{self, Write},
    time::Duration,
};

use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution},
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            opt_common::CommonOption,
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

use crate::api::capture::PacketView;

/// The link layer's flags of a packet: into the interface, or out of it.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A file that packets of one instance are written to.
pub(super) struct PcapNg<W: Write> {
    writer: PcapNgWriter<W>,
    last: Duration,
    packets: u64,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl<W: Write> PcapNg<W> {
    /// Begins the file.
    pub(super) fn new(out: W, instance: &str, snaplen: u32) -> io::Result<Self> {
        let application = format!("hivemind {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            options: vec![SectionHeaderOption::UserApplication(application.into())],
            ..SectionHeaderBlock::default()
        };
        let mut writer = PcapNgWriter::with_section_header(out, section).map_err(failed)?;
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, snaplen);
        interface.options = vec![
            InterfaceDescriptionOption::IfName(instance.into()),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        writer.write_block(&interface.into_block()).map_err(failed)?;
        Ok(Self { writer, last: Duration::ZERO, packets: 0 })
    }

    /// Writes a packet. `comment`: what became of it, if that is not that it passes.
    pub(super) fn packet(&mut self, packet: &PacketView, comment: Option<&str>) -> io::Result<()> {
        let direction = if packet.direction == "in" { INBOUND } else { OUTBOUND };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        options.extend(comment.map(|text| EnhancedPacketOption::Common(CommonOption::Comment(text.into()))));
        self.last = Duration::from_nanos(packet.at_ns);
        self.packets += 1;
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: self.last,
            original_len: packet.length,
            data: Cow::Borrowed(&packet.data),
            options,
        };
        self.writer.write_block(&block.into_block()).map(drop).map_err(failed)
    }

    /// Writes out what is kept back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    /// Ends the file with how many packets were lost.
    pub(super) fn finish(&mut self, lost: u64) -> io::Result<()> {
        let options =
            vec![InterfaceStatisticsOption::IsbIfRecv(self.packets), InterfaceStatisticsOption::IsbIfDrop(lost)];
        let block = InterfaceStatisticsBlock { interface_id: 0, timestamp: self.last, options };
        self.writer.write_block(&block.into_block()).map_err(failed)?;
        self.flush()
    }
}
