//! Creates a second with four clients, each of which sends its next one when the last is answered.
//! The floor takes the same bodies, and stores nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ballast::object::Key;

use super::client::Client;
use super::ground::Ground;
use super::pods;
use crate::report::Report;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const CLIENTS: usize = 4;
/// Stands in the one body for the name that each create has.
const NAME: &str = "to-be-named";

pub async fn run(ground: &Ground) {
    let mut rates = Report::against_first("creates of 5 kB pods, 4 clients");
    let mut answers = Report::against_first("creates of 5 kB pods, 4 clients: answer");
    for round in 0..ROUNDS {
        for (who, address) in [("floor", ground.floor), ("Ballast", ground.ours)] {
            let begun = Instant::now();
            // The floor's first create is asked of ours, so that its name is taken.
            let name = |client| format!("{}-{round}-{client}", who.to_lowercase());
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| tokio::spawn(create(address, begun, name(client))))
                .collect();
            let mut took = Vec::new();
            for client in clients {
                took.extend(client.await.expect("creates"));
            }
            let seconds = begun.elapsed().as_secs_f64();
            rates.sample(who, "creates/s", took.len() as f64 / seconds);
            answers.milliseconds(who, took);
        }
    }
    rates.print();
    answers.print();
}

async fn create(address: SocketAddr, begun: Instant, name: String) -> Vec<Duration> {
    let mut client = Client::connect(address).await;
    // Written once: the client's work is not what is measured.
    let pod = pods::pod(&Key::new(pods::key(0).namespace, NAME)).to_string();
    let uri = format!("/api/v1/namespaces/{}/pods", pods::key(0).namespace);
    let mut took = Vec::new();
    while begun.elapsed() < ROUND {
        let body = pod.replacen(NAME, &format!("{name}-{}", took.len()), 1);
        let request = Request::post(&uri)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .expect("a request");
        took.push(client.timed(request, StatusCode::CREATED).await.took);
    }
    took
}
