//! The command line as a whole.

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn every_command_and_flag_is_explained() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
        }
        command.get_subcommands().for_each(|command| check(command, &path));
    }
    check(&Args::command(), "");
}

#[test]
fn the_documents_commands_are_understood_word_for_word() {
    for line in [
        "hivemind daemon --web-port 3000",
        "hivemind app deploy --image nginx:latest --name web-app --service web.local",
        "hivemind app deploy --image a --name b --service c.local --port 9090:9090",
        "hivemind app scale --name web-app --replicas 3",
        "hivemind app info --name web-app",
        "hivemind app info web-app",
        "hivemind app scale web-app --replicas 3 --wait --timeout 90s",
        "hivemind app deploy --image a --name b --entrypoint sleep -- infinity",
        "hivemind history web",
        "hivemind rollback web --to 3 --wait",
        "hivemind app rollback --name web",
        "hivemind app diff --image a --name web --exit-code",
        "hivemind scale web=3",
        "hivemind scale web=3 db=1 --wait",
        "hivemind image push own:1",
        "hivemind image push own:1 --to registry.local:5000/team/own:1",
        "hivemind image push --from own.tar",
        "hivemind image push --from - own:1",
        "hivemind ps -o json",
        "hivemind exec -it web -- sh -c 'ls'",
        "hivemind exec web ls -l",
        "hivemind -n prod -T acme logs -f --tail 10 web",
        "hivemind --socket tcp://127.0.0.1:3000 node ls",
        "hivemind tenant create acme",
        "hivemind namespace create prod --tenant acme --label env=prod --label team=blue",
        "hivemind namespace label prod env=test team-",
        "hivemind ns ls -T acme -o name",
        "hivemind policy apply -f -",
        "hivemind policy info web -n prod",
        "hivemind policy rm web",
        "hivemind policy tier show acme/no-mail",
        "hivemind policy test -f new.yaml --from a --to b --port 80/tcp --denied",
        "hivemind policy test --expect reach.yaml",
        "hivemind why world web:80",
        "hivemind flows -f --from client --to web --port 80 --protocol tcp -o json",
        "hivemind flows --dropped --reason policy-in --app web -A",
        "hivemind dataplane unload --force",
        "hivemind volume create --name data --label team=blue",
        "hivemind volume create data",
        "hivemind volume ls -A",
        "hivemind volume info --name data -o json",
        "hivemind volume delete --name data",
        "hivemind volume rm data",
        "hivemind volume prune --yes",
        "hivemind secret create db_password --file -",
        "hivemind secret create db --stdin --replace",
        "hivemind secret rm db -n prod",
        "hivemind config create site.conf --file site.conf --label a=b",
        "hivemind config show site.conf",
        "hivemind app deploy --image a --name b --health-grpc 50051/shop --health-interval 1s",
        "hivemind app deploy --image a --name b --startup-probe tcp:1 --readiness-probe grpc:2 --liveness-probe exec:true",
        "hivemind app deploy --image a --name b --secret db --secret source=key,mode=0400 --config site:/etc/site",
        "hivemind app deploy --image a --name b --volume data:/data:ro -v /cache --mount type=bind,src=/a,dst=/b",
        "hivemind pause web web-x7k2p",
        "hivemind unpause web",
        "hivemind app ls -A",
        "hivemind ps --all-tenants",
        "hivemind ps --all-namespaces web",
    ] {
        let words = line.split(' ');
        assert!(Args::try_parse_from(words).is_ok(), "{line}");
    }
}

#[test]
fn wrong_input_is_refused() {
    for line in [
        "hivemind",
        "hivemind app deploy",
        "hivemind app scale web --replicas many",
        "hivemind app scale --name a --replicas 1 b",
        "hivemind app deploy --image a --name Web",
        "hivemind app deploy --image a --name web --port 0:80",
        "hivemind app deploy --image a --name web --memory lots",
        "hivemind app deploy --image a --name web --health-tcp 1 --health-http 1/",
        "hivemind app deploy --image a --name web --health-tcp 1 --liveness-probe tcp:1",
        "hivemind image push",
        "hivemind image push --from own.tar --to r.io/own:1",
        "hivemind daemon --registry-mirror docker.io=https://mirror.local",
        "hivemind daemon --web-port 70000",
        "hivemind scale web",
        "hivemind rollback web --to last",
        "hivemind history",
        "hivemind ps -o xml",
        "hivemind namespace label prod",
        "hivemind namespace label prod env",
        "hivemind namespace create Prod",
        "hivemind policy apply",
        "hivemind policy test -f new.yaml",
        "hivemind policy test --from a --to b",
        "hivemind why world web",
        "hivemind exec web",
        "hivemind volume create",
        "hivemind volume create a --name b",
        "hivemind volume create a/b",
        "hivemind secret create db",
        "hivemind secret create db hunter2",
        "hivemind secret create db --file a --stdin",
        "hivemind logs web --since yesterday",
        "hivemind --socket tcp://nowhere ps",
    ] {
        assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}
