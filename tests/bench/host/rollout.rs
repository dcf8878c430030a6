//! (b) A rolling update of 30, with two clients that count failed requests: one with a connection a
//! request, one that keeps its connection. Ballast's pods have a readiness probe and are asked
//! through their ClusterIP; Swarm updates eight at a time, new before old. Ballast's update is measured
//! twice: pushed in the moment the pods before are ready, and when its spare sandboxes are there again.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ground::{Ground, NAMESPACE, WEB, deployment};
use super::pods::spares_wait;
use super::swarm::Swarm;
use crate::report::Report;

const ROUNDS: usize = 2;
const PODS: usize = 30;
/// The daemon's own limit of them.
const SPARES: usize = 8;
const NEXT: &str = "ballast.example/web:v2";
/// The example server serves on for three seconds, and what ended gives way for eight.
const LEAVE: Duration = Duration::from_secs(12);
const ADDRESS: &str = "10.43.7.7";
const PROBE: &str = "        readinessProbe:
          httpGet: {path: /readyz, port: 8080}
          periodSeconds: 1
";

pub async fn run(ground: &Ground) {
    let swarm = Swarm::on(ground);
    let mut report = Report::against_first("rolling update of 30");
    let mut said = Vec::new();
    for round in 0..ROUNDS {
        let service = format!("roll-{round}");
        swarm.create(&service, PODS).await;
        let took = swarm.update(&service, NEXT).await;
        report.milliseconds("Swarm: parallelism 8, start-first", [took]);
        swarm.remove(&service).await;

        for (row, rested) in [("at-once", false), ("rested", true)] {
            let app = format!("{service}-{row}");
            let manifest = |image| deployment(&app, PODS, image, PROBE) + &reached_as(&app);
            ground.write("roll.yaml", &manifest(WEB));
            ground.commit("roll v1");
            ground.until_rolled(&app, WEB).await;
            if rested {
                spares_wait(ground, SPARES).await;
            }
            let clients = [Client::start("new"), Client::start("keep-alive")];
            ground.write("roll.yaml", &manifest(NEXT));
            let begun = Instant::now();
            ground.commit("roll v2");
            ground.until_rolled(&app, NEXT).await;
            let row = format!("Ballast: surge and unavailable 25 %, probed, {row}");
            report.milliseconds(&row, [begun.elapsed()]);
            // The old pods that still leave are part of the promise.
            tokio::time::sleep(LEAVE).await;
            said.extend(clients.map(Client::stop));
            ground.clear("roll.yaml").await;
        }
    }
    report.print();
    println!("\nrequests during Ballast's updates: {}", said.join("; "));
}

fn reached_as(app: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: roll, namespace: {NAMESPACE}}}
spec:
  clusterIP: {ADDRESS}
  selector: {{app: {app}}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

/// The example client, until it is told to stop.
struct Client {
    child: Child,
    mode: &'static str,
}

impl Client {
    fn start(mode: &'static str) -> Self {
        let url = format!("http://{ADDRESS}/");
        let child = Command::new(super::images().join("client"))
            .args([&url, "600", mode, "5"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client was built with the images");
        Self { child, mode }
    }

    /// Its last line.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let mut line = String::new();
        let mut output = self.child.stdout.take().expect("piped");
        output.read_to_string(&mut line).expect("text");
        assert!(self.child.wait().expect("it ends").success(), "the client failed");
        format!("{}: {}", self.mode, line.trim())
    }
}
