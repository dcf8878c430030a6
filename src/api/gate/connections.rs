//! The open connections of a listener. When all places are taken, a newcomer gets that of a
//! connection that is doing nothing: of the address with the most of those, the one that has done
//! nothing for longest. So whoever opens ten thousand loses their own first, and a client that asks
//! something is served. Where every connection is busy the newcomer waits.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    table: Arc<Mutex<Table>>,
    /// A place became free, or somebody idle.
    change: Arc<Notify>,
    most: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts entries and changes from busy to idle: an order that needs no clock.
    turn: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    address: IpAddr,
    /// Requests that are not answered to their end; a watch is one.
    busy: usize,
    /// The turn since which it is idle.
    since: u64,
    close: CancellationToken,
}

/// One connection's place, free when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Connections,
    id: u64,
    /// The place was given to somebody else.
    pub close: CancellationToken,
}

/// While it lives, the connection keeps its place.
#[derive(Debug)]
pub struct Busy {
    place: Arc<Place>,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        Self { table: Arc::default(), change: Arc::default(), most }
    }

    /// A place for a newcomer. Cancel safe.
    pub async fn enter(&self, address: IpAddr) -> Place {
        loop {
            // Before the look: a change in between is not lost.
            let changed = self.change.notified();
            if let Some(place) = self.try_enter(address) {
                return place;
            }
            changed.await;
        }
    }

    fn try_enter(&self, address: IpAddr) -> Option<Place> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.open.len() >= self.most {
            let victim = victim(&table.open)?;
            if let Some(idle) = table.open.remove(&victim) {
                idle.close.cancel();
            }
        }
        table.turn += 1;
        let (id, close) = (table.turn, CancellationToken::new());
        table.open.insert(id, Open { address, busy: 0, since: id, close: close.clone() });
        Some(Place { connections: self.clone(), id, close })
    }
}

/// Whose place is given away; `None`: everybody is busy.
fn victim(open: &BTreeMap<u64, Open>) -> Option<u64> {
    let mut idle: HashMap<IpAddr, usize> = HashMap::new();
    for connection in open.values().filter(|connection| connection.busy == 0) {
        *idle.entry(connection.address).or_default() += 1;
    }
    open.iter()
        .filter(|(_, connection)| connection.busy == 0)
        .max_by_key(|(_, connection)| (idle[&connection.address], u64::MAX - connection.since))
        .map(|(id, _)| *id)
}

impl Place {
    /// A request begins.
    pub fn busy(self: &Arc<Self>) -> Busy {
        let mut table = self.connections.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = table.open.get_mut(&self.id) {
            open.busy += 1;
        }
        Busy { place: Arc::clone(self) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let connections = &self.place.connections;
        {
            let mut table = connections.table.lock().unwrap_or_else(PoisonError::into_inner);
            table.turn += 1;
            let turn = table.turn;
            if let Some(open) = table.open.get_mut(&self.place.id) {
                open.busy -= 1;
                open.since = turn;
            }
        }
        connections.change.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.connections;
        connections.table.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.id);
        connections.change.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    async fn enter(connections: &Connections, last: u8) -> Arc<Place> {
        Arc::new(connections.enter(address(last)).await)
    }

    #[tokio::test]
    async fn whoever_opens_the_most_loses_their_own_first() {
        let connections = Connections::new(4);
        let ada = enter(&connections, 1).await;
        let mut eves = Vec::new();
        for _ in 0..1000 {
            eves.push(enter(&connections, 2).await);
        }
        assert!(!ada.close.is_cancelled(), "she has one, and eve many");
        let open = eves.iter().filter(|place| !place.close.is_cancelled()).count();
        assert_eq!(open, 3);
        assert!(!eves[999].close.is_cancelled(), "the newest stays");
    }

    #[tokio::test]
    async fn who_is_busy_keeps_the_place_and_the_newcomer_waits() {
        let connections = Connections::new(2);
        let (one, two) = (enter(&connections, 1).await, enter(&connections, 1).await);
        let (first, second) = (one.busy(), two.busy());
        let mut waiting = std::pin::pin!(connections.enter(address(2)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(second);
        let third = waiting.await;
        assert!(two.close.is_cancelled() && !one.close.is_cancelled());
        drop((first, one));
        drop(connections.enter(address(3)).await);
        assert!(!third.close.is_cancelled(), "a place was free");
    }

    #[tokio::test]
    async fn the_longest_idle_goes_first() {
        let connections = Connections::new(2);
        let (one, two) = (enter(&connections, 1).await, enter(&connections, 1).await);
        drop(one.busy());
        let _three = enter(&connections, 1).await;
        assert!(two.close.is_cancelled() && !one.close.is_cancelled());
    }
}
