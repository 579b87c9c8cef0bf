//! The packets of an instance, as they pass or are dropped.

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, time::Duration};

use axum::{extract::State, response::Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::stream;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    events::{lines, ndjson},
    extract::{Args, Named},
    flow_view::FlowVerdict,
    instances::find,
    problem::ApiError,
    serve::Stop,
};
use hivemind_core::model::{ErrorCode, InstanceId, Problem};
use hivemind_dataplane::{CaptureFilter, CapturedPacket, Capturing};
use hivemind_policy::{Direction, RuleName};

/// Packets in one piece of the stream.
const BATCH: usize = 64;
/// How often it is looked whether packets were lost, and whether the instance is there.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes kept of a packet without `snaplen`: all of those that are not to be cut by the kernel.
const SNAPLEN: u32 = 2_048;

#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CaptureArgs {
    /// Only packets that are dropped.
    #[serde(default)]
    dropped: bool,
    /// Only TCP, UDP and SCTP with this port at one end.
    port: Option<u16>,
    /// Only this protocol, by its number; ICMP of both families is 1.
    protocol: Option<u8>,
    /// Only packets with this address at one end; of a service also the instance that serves.
    #[param(value_type = Option<String>)]
    host: Option<IpAddr>,
    /// How many bytes of a packet are kept at most: 1 to 65536.
    snaplen: Option<u32>,
}

/// What a line of a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptureKind {
    /// A packet.
    Packet,
    /// Packets were lost: `lost` of them since the last line that says so.
    Lost,
}

/// A packet that was captured, or how many were not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacketView {
    /// What this line is.
    pub kind: CaptureKind,
    /// When, in nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// `out` of the instance, or `in`.
    pub direction: String,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Why it was dropped, as `policy-in`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The policy whose rule dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// That rule, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// Whether the data plane has made it, to answer a packet that it dropped.
    pub answer: bool,
    /// Bytes of the packet. One that the kernel or a device will still cut (GSO) is one.
    pub length: u32,
    /// The first of them, from the Ethernet header on, in base64.
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    #[schema(value_type = String)]
    pub data: Vec<u8>,
    /// How many packets were lost.
    #[serde(default)]
    pub lost: u64,
}

fn encode<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&BASE64_STANDARD.encode(bytes))
}

fn decode<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    BASE64_STANDARD.decode(String::deserialize(d)?).map_err(serde::de::Error::custom)
}

impl PacketView {
    fn new(packet: &CapturedPacket, rules: &BTreeMap<u32, RuleName>) -> Self {
        let rule = rules.get(&packet.rule);
        Self {
            kind: CaptureKind::Packet,
            at_ns: packet.at_ns,
            direction: if packet.direction == Direction::In { "in" } else { "out" }.into(),
            verdict: if packet.reason.is_some() { FlowVerdict::Dropped } else { FlowVerdict::Forwarded },
            reason: packet.reason.map(|reason| reason.as_str().into()),
            why: packet.reason.map(|reason| reason.words().into()),
            policy: rule.map(|rule| rule.policy.to_string()),
            rule: rule.and_then(|rule| u32::try_from(rule.index).ok()),
            answer: packet.answer,
            length: packet.length,
            data: packet.bytes.to_vec(),
            lost: 0,
        }
    }

    fn lost(lost: u64) -> Self {
        Self {
            kind: CaptureKind::Lost,
            at_ns: 0,
            direction: String::new(),
            verdict: FlowVerdict::Forwarded,
            reason: None,
            why: None,
            policy: None,
            rule: None,
            answer: false,
            length: 0,
            data: Vec::new(),
            lost,
        }
    }
}

/// A capture that runs, and what it has said so far.
struct Running {
    capturing: Capturing,
    state: ApiState,
    instance: InstanceId,
    lost: u64,
}

impl Running {
    /// The next packets. `None`: the instance is gone, or the daemon stops.
    async fn next(&mut self) -> Option<Vec<PacketView>> {
        loop {
            let first = match tokio::time::timeout(LOOK, self.capturing.next()).await {
                Ok(packet) => Some(packet?),
                Err(_) => None,
            };
            let more = std::iter::from_fn(|| self.capturing.try_next()).take(BATCH - 1);
            let packets: Vec<_> = first.into_iter().chain(more).collect();
            let mut views = Vec::new();
            if let Ok(lost) = self.capturing.lost()
                && lost > self.lost
            {
                views.push(PacketView::lost(lost - self.lost));
                self.lost = lost;
            }
            if packets.is_empty() && !self.state.control.snapshot().instances.contains_key(&self.instance) {
                return None;
            }
            let named = packets.iter().any(|packet| packet.rule != 0);
            let names = if named { self.state.datapath.names().await.ok() } else { None };
            let none = BTreeMap::new();
            let rules = names.as_ref().map_or(&none, |names| &names.policies.names);
            views.extend(packets.iter().map(|packet| PacketView::new(packet, rules)));
            if !views.is_empty() {
                return Some(views);
            }
        }
    }
}

/// The packets of an instance from now on, a JSON document for each: both directions at the instance, also those that are
/// dropped, with the reason. It ends when the connection is closed or the instance is gone. What was lost on the way is
/// said by documents of the kind `lost`.
#[utoipa::path(get, operation_id = "captureInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/capture", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), CaptureArgs),
    responses((status = 200, body = PacketView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn capture(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<CaptureArgs>,
) -> Result<Response, ApiError> {
    let instance = find(&state, &named)?;
    let snaplen = args.snaplen.unwrap_or(SNAPLEN);
    if !(1..=hivemind_ebpf::abi::SNAPLEN).contains(&snaplen) {
        let title = format!("snaplen {snaplen}: a packet is kept with 1 to {} bytes", hivemind_ebpf::abi::SNAPLEN);
        return Err(Problem::new(ErrorCode::Invalid, title).into());
    }
    let links = state.datapath.links().await?;
    let Some(link) = links.get(&instance.id) else {
        let title = format!("instance {} has no network on this node now", instance.name());
        return Err(Problem::new(ErrorCode::NotRunning, title)
            .hint("hivemind ps -o wide   (shows its state and node)")
            .into());
    };
    let CaptureArgs { dropped, port, protocol, host, .. } = args;
    let filter = CaptureFilter { device: link.ifindex, snaplen, dropped, host, port, protocol };
    let capturing = state.datapath.captures().start(filter)?;
    let running = Running { capturing, state, instance: instance.id.clone(), lost: 0 };
    let chunks = stream::unfold(running, |mut running| async move {
        let views = running.next().await?;
        Some((Ok::<_, Infallible>(lines(&views)), running))
    });
    Ok(ndjson(chunks, stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_comes_back_from_its_line() {
        let view = PacketView {
            direction: "in".into(),
            reason: Some("policy-in".into()),
            data: vec![0, 255, 7],
            length: 1_500,
            ..PacketView::lost(3)
        };
        let text = serde_json::to_string(&view).expect("JSON");
        assert!(text.contains(r#""data":"AP8H""#), "{text}");
        assert_eq!(serde_json::from_str::<PacketView>(&text).expect("read"), view);
    }
}
