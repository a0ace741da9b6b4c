//! Namespaces that somebody else has made: a network has them for a while, and gives them
//! back as they were.

use netbpf_tests::{
    GATEWAY, Host, Listing, NS1, NS2, Netns, OUTSIDE, Sandbox, UPLINK, at, finish,
    recipe::with_each_fault,
    sample,
    traffic::{Echo, TcpServer, connect, ping},
    wait,
};
use std::{
    fs,
    net::Ipv4Addr,
    process::{Child, Command},
};

const DATAPATHS: [&str; 2] = ["ebpf", "iptables"];

/// A container: a process in a network namespace of its own, without a name. It ends with
/// the test.
struct Container(Child);

impl Container {
    fn start(host: &Host) -> Self {
        let mut command = host.netns().command("unshare");
        let child = command.args(["--net", "sleep", "1000"]).spawn().expect("start a container");
        let container = Self(child);
        let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
        let hosts =
            host.netns().run(|| fs::read_link("/proc/thread-self/ns/net")).expect("another");
        wait::until_true("the container has a namespace of its own", || {
            container.link().is_some_and(|link| link != own && link != hosts)
        });
        container
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn link(&self) -> Option<std::path::PathBuf> {
        fs::read_link(format!("/proc/{}/ns/net", self.pid())).ok()
    }

    /// Its namespace, with a name in another sandbox than the host's, so that it is none
    /// that netbpf could know.
    fn netns(&self, elsewhere: &Sandbox) -> Netns {
        let path = format!("/proc/{}/ns/net", self.pid());
        elsewhere.run(|| {
            fs::create_dir_all("/run/netns").expect("a directory");
            fs::write("/run/netns/container", "").expect("a file");
            finish(Command::new("mount").args(["--bind", &path, "/run/netns/container"])).ok();
        });
        Netns::open(elsewhere, "container")
    }

    fn end(&mut self) {
        self.0.kill().expect("end the container");
        self.0.wait().expect("wait for it");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a namespace one in which much is set already.
fn furnish(ns: &Netns) {
    ns.ip("link set lo down");
    ns.ip("link add net1 type veth peer name net2");
    ns.ip("addr add 10.77.0.1/24 dev net1");
    ns.ip("link set net1 up");
    ns.ip("link set net2 up");
    ns.wait_up("net1");
    ns.ip("route add 10.78.0.0/16 via 10.77.0.9 dev net1");
    ns.ip("neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev net1 nud permanent");
    ns.sysctl("net/ipv4/ip_default_ttl", "77");
}

fn up(host: &Host, datapath: &str, arguments: &str) -> netbpf_tests::Outcome {
    host.netbpf(&format!("up --datapath {datapath} --uplink up0 {arguments}"))
}

/// It is in the network as any other, and what it had it has still.
#[track_caller]
fn is_connected(host: &Host, ns: &Netns, addr: Ipv4Addr, peer: (&Netns, Ipv4Addr), link: &str) {
    let way = ns.name();
    assert!(ping(ns, GATEWAY, Echo::default()).is_reply(), "{way}");
    assert!(ping(ns, OUTSIDE, Echo::default()).is_reply(), "{way}");
    assert!(ping(ns, peer.1, Echo::default()).is_reply(), "{way}");
    assert!(ping(peer.0, addr, Echo::default()).is_reply(), "{way}");
    let _server = TcpServer::start(ns, 80);
    let mut stream = connect(host.outside(), at(UPLINK, 8080)).expect("a published port");
    stream.echo(&sample(5_000)).expect("echo");
    assert!(ns.links().iter().any(|name| name == link), "{:?}", ns.links());
}

/// By its name.
#[test]
fn a_namespace_of_ip_netns_is_adopted_and_given_back() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let web = Netns::create(host.sandbox(), "web");
        furnish(&web);
        let (before, all) = (Listing::of_netns(&web), host.listing());
        let arguments = "--ns web --ns db -p 8080:web:80";
        let outcome = up(&host, datapath, arguments).ok().says("adopted");
        assert!(outcome.stderr.contains("note: web exists already"), "{outcome}");
        is_connected(&host, &web, NS1, (&host.ns("db"), NS2), "eth0");
        assert_eq!(web.link("lo")["operstate"], "DOWN");
        let status = host.json("status");
        let ns = &status["networks"][0]["namespaces"];
        assert_eq!(
            (&ns[0]["adopted"], &ns[1]["adopted"]),
            (&true.into(), &false.into()),
            "{status}"
        );
        let again = up(&host, datapath, arguments).ok().complains("nothing to do");
        assert!(!again.stderr.contains("exists already"), "{again}");
        host.netbpf(&format!("plan --datapath {datapath} --uplink up0 {arguments}")).ok();
        host.netbpf("exec web -- ip link show eth0").ok();
        // What others take away is made again.
        web.ip("link del eth0");
        host.netbpf("status").ok().says("no veth");
        up(&host, datapath, arguments).ok();
        is_connected(&host, &web, NS1, (&host.ns("db"), NS2), "eth0");
        host.netbpf("down").ok();
        before.assert_same(&Listing::of_netns(&web));
        all.assert_same(&host.listing());
        host.netns().ip("netns del web");
    }
}

/// By a process that is in it, or by a path; in a file, and by verbs.
#[test]
fn a_container_is_adopted_and_given_back() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let elsewhere = Sandbox::new();
        let container = Container::start(&host);
        let ns = container.netns(&elsewhere);
        furnish(&ns);
        let (before, all) = (Listing::of_netns(&ns), host.listing());
        let pid = container.pid();
        let path = format!("{}/existing-{datapath}.toml", env!("CARGO_TARGET_TMPDIR"));
        let file = format!(
            "datapath = {datapath:?}\nuplink = [\"up0\"]\npublish = [\"8080:web:80\"]\n\
             ns = [{{ name = \"web\", pid = {pid}, ifname = \"net0\" }}, \"db\"]"
        );
        fs::write(&path, file).expect("a file");
        let words = format!("--ns web@{pid} --ns db --ifname net0 -p 8080:web:80");
        let by_path = format!("--ns web@/proc/{pid}/ns/net --ns db --ifname net0 -p 8080:web:80");
        for (arguments, is_file) in [(words, false), (by_path, false), (format!("-f {path}"), true)]
        {
            if is_file {
                host.netbpf(&format!("up {arguments}")).ok();
            } else {
                up(&host, datapath, &arguments).ok();
            }
            is_connected(&host, &ns, NS1, (&host.ns("db"), NS2), "net0");
            host.netbpf("exec web -- ip link show net0").ok();
            host.netbpf("down").ok();
            before.assert_same(&Listing::of_netns(&ns));
            all.assert_same(&host.listing());
        }
        up(&host, datapath, "--ns db").ok();
        host.netbpf(&format!("ns add --ifname net0 web@{pid}=172.19.0.9")).ok();
        host.netbpf("publish add 8080:web:80").ok();
        let addr = Ipv4Addr::new(172, 19, 0, 9);
        is_connected(&host, &ns, addr, (&host.ns("db"), NS1), "net0");
        host.netbpf("ns rm web").ok();
        before.assert_same(&Listing::of_netns(&ns));
        host.netbpf("down").ok();
        before.assert_same(&Listing::of_netns(&ns));
        fs::remove_file(&path).expect("the file");
    }
}

/// The network keeps it, and nothing else is ever taken for it.
#[test]
fn a_container_that_ends_is_kept_and_whoever_gets_its_number_is_not_touched() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let all = host.listing();
        let mut container = Container::start(&host);
        let arguments = format!("--ns web@{} --ns db -p 8080:web:80", container.pid());
        up(&host, datapath, &arguments).ok();
        let web = host.ns("web");
        container.end();
        is_connected(&host, &web, NS1, (&host.ns("db"), NS2), "eth0");
        // Nobody has the number now; then somebody of another namespace.
        up(&host, datapath, &arguments).ok().complains("nothing to do");
        let other = Container::start(&host);
        let arguments = format!("--ns web@{} --ns db -p 8080:web:80", other.pid());
        up(&host, datapath, &arguments).exits(2).complains("is another one by now");
        assert_eq!(other.netns(&Sandbox::new()).links(), ["lo"]);
        host.netbpf("publish rm 8080").ok();
        drop((web, other));
        host.netbpf("down").ok();
        all.assert_same(&host.listing());
    }
}

#[test]
fn one_of_ip_netns_that_is_gone_is_told_and_one_made_anew_is_adopted() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let all = host.listing();
        drop(Netns::create(host.sandbox(), "web"));
        let arguments = "--ns web --ns db -p 8080:web:80";
        up(&host, datapath, arguments).ok();
        host.netns().ip("netns del web");
        host.netbpf("status").ok().says("namespace gone");
        host.netbpf("publish add 8081:db:80").exits(1).complains("the namespace web is gone");
        let web = Netns::create(host.sandbox(), "web");
        let before = Listing::of_netns(&web);
        host.netbpf("status").ok().says("namespace replaced by another");
        assert_eq!(web.links(), ["lo"], "not touched");
        up(&host, datapath, arguments).ok().says("adopted");
        is_connected(&host, &web, NS1, (&host.ns("db"), NS2), "eth0");
        host.netbpf("ns rm web").ok();
        before.assert_same(&Listing::of_netns(&web));
        host.netbpf("down").ok();
        host.netns().ip("netns del web");
        all.assert_same(&host.listing());
    }
}

/// A default route that it has comes first, and is there afterwards.
#[test]
fn a_default_route_of_its_own_stays() {
    for datapath in DATAPATHS {
        let host = Host::new();
        let web = Netns::create(host.sandbox(), "web");
        furnish(&web);
        web.ip("route add default via 10.77.0.9 dev net1");
        let before = Listing::of_netns(&web);
        let outcome = up(&host, datapath, "--ns web --ns db").ok();
        assert!(outcome.stderr.contains("default route of its own"), "{outcome}");
        let way = web.ip("route get 192.0.2.1");
        assert!(way.contains("dev net1"), "{way}");
        assert!(ping(&web, NS2, Echo::default()).is_reply());
        up(&host, datapath, "--ns web --ns db").ok().complains("nothing to do");
        web.ip("route del default via 10.77.0.9 dev net1");
        assert!(ping(&web, OUTSIDE, Echo::default()).is_reply());
        web.ip("route add default via 10.77.0.9 dev net1");
        host.netbpf("down").ok();
        before.assert_same(&Listing::of_netns(&web));
        host.netns().ip("netns del web");
    }
}

#[test]
fn what_cannot_be_adopted_is_told_and_not_touched() {
    let host = Host::new();
    let web = Netns::create(host.sandbox(), "web");
    furnish(&web);
    let container = Container::start(&host);
    let (pid, own) = (container.pid(), std::process::id());
    host.netns().ip(&format!("netns attach alias {pid}"));
    host.sandbox().run(|| fs::write("/run/plain", "").expect("a file"));
    let before = Listing::of_netns(&web);
    let listing = host.listing();
    let here = host.netns().name();
    for (arguments, what) in [
        (format!("--ns {here}"), "it is the host's own"),
        (format!("--ns host2@/run/netns/{here}"), "it is the host's own"),
        ("--ns web --ifname net1".to_owned(), "it has an interface net1 already"),
        ("--ns web --subnet 10.77.0.0/16".to_owned(), "has the address 10.77.0.1/24"),
        ("--ns web --subnet 10.78.3.0/24".to_owned(), "a route to 10.78.0.0/16 by net1"),
        (format!("--ns a@{pid} --ns b@{pid}"), "it is the very one that is a of this network"),
        (format!("--ns alias --ns b@{pid}"), "it is the very one that is alias of this network"),
        (format!("--ns alias@{pid}"), "the namespace name alias is taken"),
        ("--ns a@4194999".to_owned(), "cannot be adopted from /proc/4194999/ns/net"),
        ("--ns a@/run/plain".to_owned(), "cannot be adopted from /run/plain"),
        (format!("--ns a@/proc/{own}/ns/mnt"), "cannot be adopted from"),
        (format!("--direct --ns a@{pid} --ns b"), "makes its two namespaces itself"),
        (format!("--sandbox --ns a@{pid}"), "nothing of this machine is touched"),
        ("--namespaces 1 --ns-prefix we".to_owned(), ""),
    ] {
        let outcome = host.netbpf(&format!("up {arguments}"));
        if what.is_empty() {
            outcome.ok();
            host.netbpf("down").ok();
            continue;
        }
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
        assert!(outcome.stderr.contains(what), "{what:?} is not in {outcome}");
        before.assert_same(&Listing::of_netns(&web));
    }
    listing.assert_same(&host.listing());
    // One that another network has.
    up(&host, "ebpf", &format!("--ns a@{pid}")).ok();
    let other = "up --uplink up0 --name other --subnet 10.9.0.0/24";
    host.netbpf(&format!("{other} --ns alias")).exits(2).complains("a of the network netbpf0");
    host.netbpf("down --all").ok();
    host.netns().ip("netns del web");
    host.netns().ip("netns del alias");
    host.sandbox().run(|| fs::remove_file("/run/plain").expect("the file"));
}

/// Whatever happens on the way, it is as it was.
#[test]
fn failing_or_killed_at_any_step_it_is_given_back() {
    for datapath in DATAPATHS {
        for fault in ["fail", "kill"] {
            let host = Host::new();
            let web = Netns::create(host.sandbox(), "web");
            furnish(&web);
            let container = Container::start(&host);
            let inside = container.netns(&Sandbox::new());
            let before = [&web, &inside].map(Listing::of_netns);
            let all = host.listing();
            let command = format!(
                "up --datapath {datapath} --uplink up0 --ns web --ns box@{} -p 8080:web:80",
                container.pid()
            );
            with_each_fault(&host, &command, fault, |step, outcome| {
                if fault == "kill" {
                    host.netbpf("down --all").ok();
                }
                eprintln!("{datapath}, {fault} at step {step}: {outcome}");
                for (ns, before) in [&web, &inside].into_iter().zip(&before) {
                    before.assert_same(&Listing::of_netns(ns));
                }
                all.assert_same(&host.listing());
            });
            is_connected(&host, &web, NS1, (&inside, NS2), "eth0");
            // On the way back it is the same.
            let mut steps = 0;
            for step in 1..=100 {
                let mut command = host.command("down");
                let outcome = finish(command.env("NETBPF_FAULT", format!("kill:{step}")));
                if outcome.code == Some(0) {
                    break;
                }
                steps = step;
                if step % 3 == 0 {
                    up(
                        &host,
                        datapath,
                        &format!("--ns web --ns box@{} -p 8080:web:80", container.pid()),
                    )
                    .ok();
                }
            }
            assert!(steps > 3, "only {steps} steps");
            for (ns, before) in [&web, &inside].into_iter().zip(&before) {
                before.assert_same(&Listing::of_netns(ns));
            }
            all.assert_same(&host.listing());
            host.netns().ip("netns del web");
        }
    }
}
