//! A test of a client and a server, each in a namespace of its own, in a network that is
//! gone when the test is over, however it ends.
//!
//! ```text
//! cargo build --example lab && sudo target/debug/examples/lab
//! ```

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use netbpf::{
    network::Network,
    sandbox::{Sandbox, Wire, World},
    spec::Spec,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    // A host and an outside of their own: nothing of this machine is touched. Without it
    // the network would be one of the machine itself.
    let sandbox = Sandbox::new(&World::default())?;
    let network = sandbox.host().run(|| {
        Network::up(Spec {
            ns: vec!["server".into(), "client".into()],
            publish: vec!["8080:server:80".into()],
            ..Spec::default()
        })
    })??;
    for endpoint in &network.topology().endpoints {
        println!("{} has {}", endpoint.namespace, endpoint.addr);
    }

    // A socket stays in the namespace in which it was made.
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
    let listener = network.namespace("server")?.run(listen)??;
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            // A client that has gone has what it wanted.
            let _ = connection.write_all(b"hello");
        }
    });

    let server = network.topology().endpoints[0].addr;
    let greeting = |to: Ipv4Addr, port: u16| -> std::io::Result<String> {
        let mut text = String::new();
        TcpStream::connect((to, port))?.read_to_string(&mut text)?;
        Ok(text)
    };
    let inside = network.namespace("client")?.run(|| greeting(server, 80))??;
    let outside = sandbox.outside().run(|| greeting(Wire::FIRST.host, 8080))??;
    println!("inside: {inside}, from outside: {outside}");

    for flow in network.flows()? {
        let (client, port) =
            (Ipv4Addr::from(flow.head.tuple.saddr), flow.head.tuple.dport.number());
        println!("{} of {client} to port {port}", flow.state);
    }
    for finding in network.check()? {
        println!("somebody has changed {}: {}", finding.thing, finding.amiss);
    }

    // Dropping it would do as well, but could not tell what went wrong.
    network.down()?;
    Ok(())
}
