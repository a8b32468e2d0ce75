//! A way for TCP that can be cut: what a partition of the network does to two programs.
//!
//! Never looks at what passes.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A free port whose connections go on to another address, until they are cut. Stops when
/// dropped.
#[derive(Debug)]
pub struct Passage {
    /// Where it listens.
    pub address: SocketAddr,
    cut: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Passage {
    /// To `target`, open, on a thread of its own.
    pub fn to(target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (cut, is_cut) = watch::channel(false);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(stopped.run_until_cancelled(accept(listener, target, is_cut)));
        });
        Self { address, cut, stop }
    }

    /// Ends what passes, and lets nothing through from now on; or opens again.
    pub fn set_cut(&self, is_cut: bool) {
        self.cut.send_replace(is_cut);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: std::net::TcpListener,
    target: SocketAddr,
    mut is_cut: watch::Receiver<bool>,
) {
    let listener = TcpListener::from_std(listener).expect("a socket");
    let mut passing = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        if *is_cut.borrow_and_update() {
            continue;
        }
        passing.spawn(pass(stream, target, is_cut.clone()));
        while passing.try_join_next().is_some() {}
    }
}

async fn pass(mut stream: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let Ok(mut onward) = TcpStream::connect(target).await else { return };
    tokio::select! {
        // What breaks here breaks at both ends.
        _ = copy_bidirectional(&mut stream, &mut onward) => {}
        _ = is_cut.wait_for(|is_cut| *is_cut) => {}
    }
}
