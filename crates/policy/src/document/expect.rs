//! What is expected of policies: a list of who is to reach whom.
//!
//! ```yaml
//! - {from: client, to: web, port: 80/tcp, passes: true}
//! - {from: world, to: db, port: 5432, passes: false}
//! ```

use serde_norway::Value;

use super::{
    fields::{Faults, Node},
    short,
};
use hivemind_core::spec::v1::{PolicyProtocol, PortMatch};

/// Who is to reach whom, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// From whom, in the words of `hivemind why`.
    pub from: String,
    /// To whom.
    pub to: String,
    /// The protocol.
    pub protocol: PolicyProtocol,
    /// The receiving instance's port, or the ICMP type.
    pub port: u16,
    /// Whether it is to pass.
    pub passes: bool,
}

/// The expectations of `text`, or all its faults.
pub fn read_expectations(text: &str) -> Result<Vec<Expectation>, Vec<String>> {
    let mut faults = Faults::default();
    faults.next_document();
    let value = match serde_norway::from_str::<Value>(text) {
        Ok(value) => value,
        Err(error) => return Err(vec![format!("this is not YAML as it should be: {error}")]),
    };
    let items = Node::root(&value).items(&mut faults).unwrap_or_default();
    let read = items.iter().filter_map(|node| expectation(node, &mut faults)).collect();
    faults.into_result(read)
}

fn expectation(node: &Node<'_>, faults: &mut Faults) -> Option<Expectation> {
    let fields = node.fields_with_values(&["from", "to", "port", "passes"], faults)?;
    let [from, to] = ["from", "to"].map(|name| fields.need(name, faults).and_then(|node| node.text(faults)));
    let port = fields.need("port", faults).and_then(|node| one_port(&node, faults));
    let passes = fields.need("passes", faults).and_then(|node| match node.value {
        Value::Bool(passes) => Some(*passes),
        _ => node.fault(faults, "write true or false"),
    });
    let (protocol, port) = port?;
    Some(Expectation { from: from?.to_owned(), to: to?.to_owned(), protocol, port, passes: passes? })
}

fn one_port(node: &Node<'_>, faults: &mut Faults) -> Option<(PolicyProtocol, u16)> {
    let port = short::port(node, faults)?;
    match port.port {
        Some(PortMatch::Range(first, last)) if first == last => Some((port.protocol, first)),
        _ => node.fault(faults, "write one port, as 80/tcp"),
    }
}

/// One port with its protocol, as `80`, `53/udp` or `8/icmp`.
pub fn read_port(text: &str) -> Result<(PolicyProtocol, u16), String> {
    let mut faults = Faults::default();
    let value = Value::String(text.to_owned());
    let found = one_port(&Node::root(&value), &mut faults);
    let why = faults.into_result(()).err().and_then(|faults| faults.into_iter().next());
    found.ok_or_else(|| why.map_or_else(String::new, |why| why.trim_start_matches("document 0: ").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_and_their_faults() {
        let read = read_expectations("- {from: a, to: b, port: 53/udp, passes: false}\n").expect("valid");
        let (from, to) = ("a".to_owned(), "b".to_owned());
        assert_eq!(read, [Expectation { from, to, protocol: PolicyProtocol::Udp, port: 53, passes: false }]);
        let faults = read_expectations("- {from: a, to: b, port: 1-2}\n- {x: 1}\n").expect_err("faults");
        assert_eq!(faults.len(), 7, "{faults:#?}");
        assert_eq!(read_port("8/icmp"), Ok((PolicyProtocol::Icmp, 8)));
        assert_eq!(read_port("90-80").expect_err("empty"), "the range 90-80 is empty; write 80-90");
        assert_eq!(read_port("tcp").expect_err("all"), "write one port, as 80/tcp");
    }
}
