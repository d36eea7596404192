//! A chunkserver's connection: how it begins and how it ends.

use cairn_proto::{ServerId, rpc};
use rpc::master_command::Cmd;
use tracing::warn;

use super::node_states::Happening;
use super::server::Server;
use super::work::Work;
use super::{Cluster, LinkId, Refusal, ServerRecord};

/// Chunkservers in a cluster, at most.
const SERVERS: usize = 4_096;
/// Bytes in an address or a name, at most.
const NAME: usize = 255;

impl Cluster {
    pub(super) fn registered(&mut self, work: &mut Work<'_>, link: LinkId, register: rpc::Register) {
        let id = match self.admit(work, &register) {
            Ok(id) => id,
            Err(reason) => {
                warn!(id = register.id, %reason, "a chunkserver is refused");
                return work.close(link, reason);
            }
        };
        let (incarnation, pid, http) = (register.incarnation, register.pid, register.http.clone());
        let duty = self.servers.get(&id).map(|s| s.record.duty).unwrap_or_default();
        let record = ServerRecord { duty, ..server_record(id, register) };
        let lease_until = work.now.plus(self.settings.lease_ms + self.settings.lease_margin_ms);
        let known = self.servers.contains_key(&id);
        let server = self.servers.entry(id).or_insert_with(|| Server::new(record.clone(), lease_until));
        if !known || server.record != record {
            work.put_server(record.clone());
        }
        let older = server.link.replace(link);
        server.record = record;
        (server.incarnation, server.pid, server.http) = (incarnation, pid, http);
        (server.last_link, server.died) = (None, None);
        server.arrivals.connected();
        // Until its first heartbeat it has no lease; that one must come before this.
        server.lease_until = server.lease_until.max(lease_until);
        self.links.insert(link, id);
        if let Some(older) = older {
            self.links.remove(&older);
            work.close(older, Refusal::Replaced);
        }
        self.cut_off(id);
        self.happened(work, id, Happening::Registered);
        // Whatever its state: it may have moved.
        self.servers_changed = true;
        self.audit.request();
        let registered = self.welcome(id);
        work.send(link, Cmd::Registered(registered));
        // Before its lease.
        self.tell_sessions(work, id, link);
    }

    fn welcome(&self, id: ServerId) -> rpc::Registered {
        rpc::Registered {
            id: id.0,
            cluster_id: self.settings.cluster_id.to_vec().into(),
            heartbeat_ms: u32::try_from(self.settings.heartbeat_ms).unwrap_or(u32::MAX),
            lease_ms: u32::try_from(self.settings.lease_ms).unwrap_or(u32::MAX),
            chunk_size: self.settings.chunk_size,
            servers: self.servers(),
        }
    }

    /// Which id the server gets, if it may be one of the cluster.
    fn admit(&self, work: &Work<'_>, register: &rpc::Register) -> Result<ServerId, Refusal> {
        if register.protocol != cairn_proto::PROTOCOL {
            return Err(Refusal::Protocol(register.protocol));
        }
        let info = register.info.as_ref().ok_or(Refusal::Bad("no address"))?;
        if info.addr.is_empty() || info.addr.len() > NAME {
            return Err(Refusal::Bad("address empty or too long"));
        }
        if [&info.unix_path, &info.boot_id, &register.rack].iter().any(|s| s.len() > NAME) {
            return Err(Refusal::Bad("name too long"));
        }
        if register.cluster_id.is_empty() && register.id != 0 {
            return Err(Refusal::IdWithoutCluster(register.id));
        }
        if !register.cluster_id.is_empty() && register.cluster_id != self.settings.cluster_id.as_slice() {
            let (ours, theirs) = (hex(&self.settings.cluster_id), hex(&register.cluster_id));
            return Err(Refusal::OtherCluster { ours, theirs });
        }
        if register.id == 0 {
            return self.new_id();
        }
        let id = ServerId(register.id);
        match self.servers.get(&id) {
            Some(server) => {
                // An older connection of the same process has broken without our noticing. Another process may
                // take its place when it is certain that the first serves nothing.
                let twice = server.link.is_some() && server.incarnation != register.incarnation;
                if twice && !server.is_gone(work.now) {
                    return Err(Refusal::Twice(register.id, server.record.addr.clone()));
                }
                Ok(id)
            }
            None if self.servers.len() >= SERVERS => Err(Refusal::TooMany(SERVERS)),
            None => Ok(id),
        }
    }

    fn new_id(&self) -> Result<ServerId, Refusal> {
        let last = self.servers.keys().next_back().map_or(0, |s| s.0);
        let next = last.checked_add(1).filter(|_| self.servers.len() < SERVERS);
        next.map(ServerId).ok_or(Refusal::TooMany(SERVERS))
    }

    pub(super) fn disconnected(&mut self, work: &mut Work<'_>, link: LinkId) {
        let Some(id) = self.links.remove(&link) else { return };
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.link != Some(link) {
            return;
        }
        server.link = None;
        server.last_link = Some(link);
        self.cut_off(id);
        self.happened(work, id, Happening::ConnectionEnded);
    }

    /// Its process is gone, unless it has come back meanwhile.
    pub(super) fn refused(&mut self, work: &mut Work<'_>, link: LinkId) {
        let gone = self.servers.iter().find(|(_, s)| s.link.is_none() && s.last_link == Some(link));
        let Some((id, _)) = gone else { return };
        let id = *id;
        if let Some(server) = self.servers.get_mut(&id) {
            server.lease_until = work.now;
        }
        self.happened(work, id, Happening::ProcessGone);
    }

    /// What was under way with this server is not any more.
    pub(super) fn cut_off(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.watch.doubt();
            server.incoming = None;
            server.owed.extend(server.replicas.unsure());
        }
        self.deletes.disconnected(id);
        for (chunk, flight) in self.repairs.flights() {
            if flight.primary == id || flight.target == id {
                self.repairs.replan(chunk);
            }
        }
    }
}

fn server_record(id: ServerId, register: rpc::Register) -> ServerRecord {
    let info = register.info.unwrap_or_default();
    ServerRecord {
        id,
        addr: info.addr,
        unix_path: info.unix_path,
        boot_id: info.boot_id,
        rack: register.rack,
        ..ServerRecord::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    // A chunkserver may say anything: so much of it tells clusters apart.
    bytes.iter().take(16).map(|b| format!("{b:02x}")).collect()
}
