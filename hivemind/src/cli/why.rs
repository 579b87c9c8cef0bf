//! `hivemind why` and `hivemind policy test`.

use std::path::PathBuf;

use clap::Args;

use super::{
    Context,
    output::{Format, line},
    policy::read_files,
};
use crate::{
    api::why::{LegView, Question, TriedPolicy, TriedTier, WhyBody, WhyView},
    model::{ErrorCode, Problem},
    policy::{Document, Expectation, read_expectations, read_port},
    spec::v1::PolicyProtocol,
};

/// Shown beneath `hivemind why --help`.
const WHY_EXAMPLES: &str = "\
Examples:
  hivemind why client web:80                            may the app client reach port 80 of web
  hivemind why world web:443/tcp
  hivemind why web 192.0.2.7:53/udp
  hivemind why shop/cart web-x7k2p:8/icmp               of another namespace; an instance; of ICMP the type
  hivemind why client web.local:80                      a service by its name or address, with its own port
  hivemind why 192.0.2.7 host:8080                      a published port
Ports of apps are those of their instances. Whether anybody listens at a port is not known. Only what begins a connection is asked: its answers pass.";

/// Shown beneath `hivemind policy test --help`.
const TEST_EXAMPLES: &str = "\
Examples:
  hivemind policy test -f new.yaml --from client --to web --port 80/tcp
  hivemind policy test -f new.yaml --from world --to db --port 5432 --denied
  hivemind policy test -f new.yaml --expect reach.yaml
A file of expectations is a list:
  - {from: client, to: web, port: 80/tcp, passes: true}
Nothing is stored. Exit code 0: all is as expected; 1: something is not.";

#[derive(Args, Debug)]
#[command(after_help = WHY_EXAMPLES)]
pub(super) struct WhyArgs {
    /// Instance, app, IP address, 'world' or 'host'
    from: String,
    /// The same or a service, with the port: web:80, web.local:80, web:53/udp, [2001:db8::1]:443
    #[arg(value_parser = target, value_name = "TO:PORT")]
    to: Target,
}

#[derive(Args, Debug)]
#[command(after_help = TEST_EXAMPLES)]
pub(super) struct TestArgs {
    /// File with policies to try; '-' is standard input; may be repeated
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Who begins: instance, app, IP address, 'world' or 'host'
    #[arg(long, requires_all = ["to", "port"], required_unless_present = "expect", value_name = "WHO")]
    from: Option<String>,
    /// Whom it is to reach
    #[arg(long, requires = "from", value_name = "WHO")]
    to: Option<String>,
    /// The receiving instance's port: 80, 53/udp, 8/icmp
    #[arg(long, requires = "from", value_parser = read_port)]
    port: Option<(PolicyProtocol, u16)>,
    /// It is expected not to pass
    #[arg(long, requires = "from")]
    denied: bool,
    /// File with expectations; may be repeated
    #[arg(long, value_name = "FILE")]
    expect: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    to: String,
    protocol: PolicyProtocol,
    port: u16,
}

fn target(text: &str) -> Result<Target, String> {
    let (to, port) = text.rsplit_once(':').ok_or("write TO:PORT, as web:80")?;
    let (protocol, port) = read_port(port)?;
    let bare = to.strip_prefix('[').and_then(|to| to.strip_suffix(']')).unwrap_or(to);
    if bare.is_empty() || bare == to && to.contains(':') {
        return Err("write TO:PORT, as web:80 or [2001:db8::1]:443".into());
    }
    Ok(Target { to: bare.to_owned(), protocol, port })
}

fn shown(leg: &LegView) -> String {
    let way = match leg.direction.as_str() {
        "in" => "into",
        "published" => "into a published port of the",
        "service" => "at service",
        _ => "out of",
    };
    format!("  {way} {}: {}", leg.instance, leg.says)
}

fn verdict(passes: bool) -> &'static str {
    if passes { "passes" } else { "is denied" }
}

pub(super) async fn why(context: &Context, args: WhyArgs) -> Result<(), Problem> {
    let Target { to, protocol, port } = args.to;
    let question = Question { from: args.from, to, protocol, port };
    let body = WhyBody { questions: vec![question.clone()], ..WhyBody::default() };
    let answers: Vec<WhyView> = context.client.why(&context.scope, &body).await?;
    for answer in &answers {
        match context.output.format {
            Format::Json | Format::Yaml => context.output.document(answer)?,
            Format::Name => line(verdict(answer.passes)),
            Format::Table | Format::Wide => {
                let full =
                    if answer.passes && answer.full { "; but a limit is full, which refuses it now" } else { "" };
                line(&format!("{} {}{full}", asked(&question), verdict(answer.passes)));
                answer.legs.iter().for_each(|leg| line(&shown(leg)));
                answer.notes.iter().for_each(|note| line(&format!("  {note}")));
                kernel(answer).iter().for_each(|words| line(&format!("  {words}")));
            }
        }
    }
    Ok(())
}

/// Whether the kernel's tables say the same.
fn kernel(answer: &WhyView) -> Vec<String> {
    let asked = answer.legs.iter().filter(|leg| leg.kernel_agrees.is_some());
    if asked.clone().all(|leg| leg.kernel_agrees == Some(true)) {
        return asked.take(1).map(|_| "the kernel's tables say the same".into()).collect();
    }
    let differs = |leg: &LegView| {
        let says = leg.kernel_says.clone()?;
        let theirs = LegView { says, ..leg.clone() };
        Some(format!("but the kernel's tables say of it,{}", shown(&theirs).replacen("  ", " ", 1)))
    };
    let hint = "try: hivemind dataplane check".to_owned();
    asked.filter_map(differs).chain([hint]).collect()
}

/// `client to web, 80/tcp,`
fn asked(question: &Question) -> String {
    format!("{} to {}, {}/{},", question.from, question.to, question.port, question.protocol.as_str())
}

/// The policies as they are tried: nothing of them is stored.
pub(super) fn tried(policies: &[Document]) -> WhyBody {
    let mut body = WhyBody::default();
    for document in policies.iter().cloned() {
        match document {
            Document::Policy(key, spec) => body.policies.push(TriedPolicy { key, spec }),
            Document::Tier(key, spec) => body.tiers.push(TriedTier { key, spec }),
        }
    }
    body
}

pub(super) async fn test(context: &Context, args: TestArgs) -> Result<(), Problem> {
    let mut expected = Vec::new();
    if let (Some(from), Some(to), Some((protocol, port))) = (args.from, args.to, args.port) {
        expected.push(Expectation { from, to, protocol, port, passes: !args.denied });
    }
    for file in &args.expect {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Problem::new(ErrorCode::Invalid, format!("{shown} cannot be read: {error}")))?;
        let read = read_expectations(&text).map_err(|faults| {
            let problem = Problem::new(ErrorCode::Invalid, format!("{shown} is not valid"));
            Problem { details: faults, ..problem.hint("hivemind policy test --help") }
        })?;
        expected.extend(read);
    }
    let mut body = tried(&read_files(context, &args.file)?);
    let question = |Expectation { from, to, protocol, port, .. }: &Expectation| Question {
        from: from.clone(),
        to: to.clone(),
        protocol: *protocol,
        port: *port,
    };
    body.questions = expected.iter().map(question).collect();
    let answers: Vec<WhyView> = context.client.why(&context.scope, &body).await?;
    if matches!(context.output.format, Format::Json | Format::Yaml) {
        context.output.document(&answers)?;
    }
    let mut faults = Vec::new();
    for ((expected, question), answer) in expected.iter().zip(&body.questions).zip(&answers) {
        let (passes, legs) = match answer.would_pass {
            Some(would) => (would, &answer.would),
            None => (answer.passes, &answer.legs),
        };
        let now = if answer.passes == passes { "as now" } else { "which is new" };
        if passes == expected.passes {
            context.output.say(&format!("ok: {} {}, {now}", asked(question), verdict(passes)));
        } else {
            faults.push(format!("{} {}, {now}", asked(question), verdict(passes)));
            faults.extend(legs.iter().map(shown));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let title = "policies do not do what is expected of them";
    Err(Problem { details: faults, ..Problem::new(ErrorCode::NotAsExpected, title).hint("hivemind policy ls") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_a_port() {
        let read = |text| target(text).map(|target| (target.to, target.port));
        assert_eq!(read("web:80"), Ok(("web".into(), 80)));
        assert_eq!(read("shop/web:53/udp"), Ok(("shop/web".into(), 53)));
        assert_eq!(read("[2001:db8::1]:443"), Ok(("2001:db8::1".into(), 443)));
        for wrong in ["web", "web:", "web:0", "2001:db8::1:443", ":80", "web:80-90"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
