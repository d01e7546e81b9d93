// The page shows the state that the program sends, and sends back what the person does. It decides nothing about calls.

import { Receiver, Sender, abilities, ringTone, sound, unpack } from "./media.js";

const $ = (id) => document.getElementById(id);
const el = (name, props = {}, ...children) => {
	const e = Object.assign(document.createElement(name), props);
	e.append(...children.filter((c) => c !== undefined && c !== null));
	return e;
};
const icon = (name) => {
	const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), use = document.createElementNS("http://www.w3.org/2000/svg", "use");
	use.setAttribute("href", `#i-${name}`);
	svg.append(use);
	svg.setAttribute("aria-hidden", "true");
	return svg;
};

let socket, state = { phase: "name", calls: [], friends: [], chat: [], nat: {}, media: {} };
const token = location.hash.slice(1);
const tiles = new Map(); // leg to tile
const command = (c) => { if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(c)); };

function connect() {
	socket = new WebSocket(`ws://${location.host}/socket?token=${encodeURIComponent(token)}`);
	socket.binaryType = "arraybuffer";
	socket.onopen = async () => {
		stranded("");
		command({ do: "can", ...(await abilities()) });
	};
	socket.onmessage = ({ data }) => {
		if (typeof data !== "string") {
			const f = unpack(data);
			tiles.get(f.leg)?.receiver.take(f);
			return;
		}
		state = JSON.parse(data);
		render();
	};
	socket.onclose = ({ code }) => {
		if (code === 1008) {
			stranded("The phone is open in another tab now. Reload this one to take it back.");
			return;
		}
		stranded("The video phone is not running. Start it again, and open the address that it prints.");
		setTimeout(connect, 1500);
	};
}

let strandedText = "";
function stranded(text) {
	strandedText = text;
	trouble();
}
function trouble() {
	const text = strandedText || mediaTrouble || state.trouble || "";
	if ($("trouble").textContent !== text) $("trouble").textContent = text;
	$("trouble").hidden = !text;
}

// ---- camera and microphone

let mediaTrouble = "";
const sender = new Sender((b) => { if (socket?.readyState === WebSocket.OPEN) socket.send(b); }, () => socket?.bufferedAmount > 1 << 18);

async function openMedia() {
	try {
		const stream = await sender.open();
		for (const id of ["preview", "self"]) {
			if ($(id).srcObject !== stream) {
				$(id).srcObject = stream;
				$(id).play().catch(() => {});
			}
		}
		document.querySelector(".mirror").classList.add("on");
		mediaTrouble = "";
		if (!stream.getVideoTracks().length) mediaTrouble = "There is no camera: others hear you only.";
		else if (!stream.getAudioTracks().length) mediaTrouble = "There is no microphone: others see you only.";
	} catch (e) {
		mediaTrouble = e.name === "NotAllowedError" ? "The browser does not give this page camera and microphone: allow them beside the address, and reload."
			: "Neither camera nor microphone was found: others neither see nor hear you.";
	}
	trouble();
}

// ---- rendering

const hue = (name) => [...name].reduce((h, c) => (h * 31 + c.codePointAt(0)) % 360, 7);
function dressAvatar(a, name) {
	a.textContent = [...name.trim()][0]?.toUpperCase() ?? "?";
	a.style.setProperty("--hue", hue(name));
}
function avatar(name) {
	const a = el("div", { className: "avatar", ariaHidden: "true" });
	dressAvatar(a, name);
	return a;
}
const rate = (bps) => bps >= 1e6 ? `${(bps / 1e6).toFixed(1)} Mbit/s` : `${Math.round(bps / 1e3)} kbit/s`;
let said = "";
function announce(text) {
	if (text !== said) $("live").textContent = said = text;
}
const once = (node, key, make) => {
	if (node.dataset.made !== key) {
		node.dataset.made = key;
		make();
	}
};

function render() {
	const calls = state.calls, incoming = calls.find((c) => c.state === "incoming"), shown = calls.filter((c) => c.state !== "incoming");
	const view = shown.length ? "call" : state.phase === "name" || state.phase === "connecting" && !state.name ? "start" : "home";
	document.body.dataset.view = view;
	trouble();
	$("me").hidden = view === "start";
	$("my-name").textContent = state.name ?? "";
	$("my-id").textContent = state.id ? state.id.slice(0, 8) + "…" : "";
	$("me").querySelector(".dot").className = "dot " + (state.phase === "online" ? (state.relayed ? "relay" : "on") : state.phase === "connecting" ? "busy" : "");
	$("go").disabled = state.phase === "connecting";
	$("go").textContent = state.phase === "connecting" ? "Connecting…" : "Go online";
	sender.aim(state.media ?? {});
	renderFriends();
	renderRing(incoming);
	renderTiles(shown);
	renderChat();
	renderConnection(shown);
	renderSafety();
	if (view === "call") {
		announce(shown.map((c) => `${c.name}: ${c.words}`).join(". "));
		$("end").title = shown.some((c) => c.state !== "ended") ? "Hang up" : "Close";
	} else if (!incoming) announce(state.phase === "online" ? `You are online as ${state.name}` : "");
	if (view !== "call" && !$("panel").hidden) openPane(null);
	if (view !== "call") $("add").open && $("add").close();
}

function friendRow(f, act) {
	const call = el("button", { className: f.online ? "primary" : "quiet", disabled: !f.online }, icon("phone"), f.online ? "Call" : "Offline");
	call.setAttribute("aria-label", f.online ? `Call ${f.name}` : `${f.name} is offline`);
	call.onclick = () => act(f.name);
	const a = avatar(f.name);
	if (f.online) a.append(el("i", { className: "dot on" }));
	const drop = el("button", { className: "plain", title: `Remove ${f.name}` }, icon("close"));
	drop.onclick = () => command({ do: "drop-friend", name: f.name });
	return el("li", { className: f.online ? "" : "off" }, a, el("span", { className: "who" }, el("b", { textContent: f.name }), f.verified ? el("small", { textContent: "Verified" }) : undefined), call, drop);
}

function renderFriends() {
	once($("friends"), JSON.stringify(state.friends), () => {
		$("friends").replaceChildren(...state.friends.map((f) => friendRow(f, place)));
		$("add-friends").replaceChildren(...state.friends.filter((f) => f.online).map((f) => friendRow(f, (n) => { $("add").close(); place(n); })));
	});
	$("empty").hidden = state.friends.length > 0;
}

let tone;
function renderRing(c) {
	const ring = $("ring");
	if (!c) {
		if (ring.open) ring.close();
		tone?.();
		tone = undefined;
		document.title = "Stile video phone";
		return;
	}
	$("ring-name").textContent = c.name || "Somebody";
	$("ring-words").textContent = c.standing === "changed" ? "Their key has changed: compare the code when you talk." : "is calling";
	dressAvatar($("ring-avatar"), c.name || "?");
	ring.dataset.leg = c.leg;
	document.title = `${c.name || "Somebody"} is calling`;
	if (!ring.open) {
		ring.showModal();
		$("accept").focus();
		tone = ringTone();
	}
}

class Tile {
	constructor(c) {
		this.leg = c.leg;
		this.canvas = el("canvas");
		this.canvas.setAttribute("role", "img");
		this.face = el("div", { className: "face" }, avatar(c.name || "?"), el("h2"), el("p"));
		this.route = el("button", { className: "tag" });
		this.route.onclick = () => openPane("net");
		this.shield = el("button", { className: "tag" });
		this.shield.onclick = () => openSafety(this.leg);
		this.label = el("span", { className: "tag" });
		this.leave = el("button", { className: "tag" }, icon("close"));
		this.leave.onclick = () => command({ do: "end", leg: this.leg });
		this.note = el("p", { className: "tag note", hidden: true });
		this.node = el("article", { className: "tile" }, this.canvas, this.face, el("div", { className: "tags" }, this.label, this.route, this.shield, this.leave), this.note);
		this.receiver = new Receiver(this.canvas, () => command({ do: "need-key", leg: this.leg }));
	}
	update(c, several) {
		this.call = c;
		this.node.dataset.state = c.state;
		const name = c.name || c.peer.slice(0, 8);
		dressAvatar(this.face.children[0], name);
		this.face.children[1].textContent = name;
		this.face.children[2].textContent = c.words;
		this.label.textContent = name;
		this.canvas.setAttribute("aria-label", `Picture of ${name}`);
		const talking = c.state === "in-call";
		this.label.hidden = !talking;
		this.route.hidden = !talking || !c.route;
		this.leave.hidden = !several || c.state === "ended";
		this.leave.setAttribute("aria-label", `Hang up on ${name}`);
		once(this.route, `${c.route} ${c.rtt}`, () => this.route.replaceChildren(el("i", { className: "dot " + (c.route === "relay" ? "relay" : "on") }), c.route === "relay" ? "Relayed" : "Direct", c.rtt ? ` ${c.rtt} ms` : ""));
		const bad = c.standing === "changed" || c.standing === "forged" || c.tampered, good = c.standing === "verified" && !c.tampered;
		this.shield.hidden = !talking || !(c.code || bad);
		this.shield.className = "tag" + (bad ? " warn" : good ? " good" : "");
		once(this.shield, `${c.code} ${bad} ${good}`, () => this.shield.replaceChildren(icon("shield"), bad ? (c.tampered ? "Not safe" : "Key changed") : good ? "Verified" : c.code));
		this.shield.setAttribute("aria-label", bad ? "Safety warning" : good ? "Verified" : `Safety code ${c.code}`);
		this.note.hidden = !c.note;
		this.note.textContent = c.note ?? "";
	}
	watch(now) {
		const r = this.receiver, seen = this.call.state === "in-call" && r.shown > 0 && now - r.last < 2500;
		this.node.classList.toggle("seen", seen);
		if (now - (r.heard ?? 0) > 300) r.level = 0;
		this.node.classList.toggle("talks", r.level > 0.02 && tiles.size > 1);
		this.node.dataset.level = r.level.toFixed(3);
		this.node.dataset.pictures = r.shown;
	}
}

function renderTiles(calls) {
	const legs = new Set(calls.map((c) => c.leg));
	for (const [leg, tile] of tiles) {
		if (!legs.has(leg)) {
			tile.receiver.close();
			tile.node.remove();
			tiles.delete(leg);
		}
	}
	for (const c of calls) {
		if (!tiles.has(c.leg)) {
			const tile = new Tile(c);
			tiles.set(c.leg, tile);
			$("tiles").append(tile.node);
			openMedia();
		}
		tiles.get(c.leg).update(c, calls.length > 1);
	}
	$("tiles").dataset.count = calls.length;
}
setInterval(() => {
	const now = performance.now();
	for (const t of tiles.values()) if (t.call) t.watch(now);
}, 200);

let read = 0;
function renderChat() {
	once($("lines"), JSON.stringify(state.chat), () => {
		$("lines").replaceChildren(...state.chat.map((l) => el("li", { className: l.mine ? "mine" : "" }, el("b", { textContent: l.name }), l.text)));
		$("lines").lastElementChild?.scrollIntoView({ block: "nearest" });
	});
	if (!$("chat").hidden && !$("panel").hidden) read = state.chat.length;
	if (state.chat.length < read) read = state.chat.length;
	$("chat-open").querySelector(".badge").hidden = state.chat.length <= read;
}

function renderConnection(calls) {
	const figure = (value, what) => el("div", {}, el("b", { textContent: value }), el("small", { textContent: what }));
	const paths = calls.filter((c) => c.state === "in-call" && c.route);
	once($("paths"), JSON.stringify(paths), () => $("paths").replaceChildren(...paths.map((c) => {
		const relay = c.route === "relay";
		const route = el("div", { className: "route " + (relay ? "bent" : "straight") }, el("span", { textContent: "You" }), el("i"),
			...(relay ? [el("span", { textContent: "Relay" }), el("i")] : []), el("span", { textContent: c.name }));
		route.setAttribute("aria-hidden", "true");
		return el("div", { className: "path" }, el("strong", {}, el("i", { className: "dot " + (relay ? "relay" : "on") }), relay ? `Relayed to ${c.name}` : `Direct to ${c.name}`), route,
			el("div", { className: "figures" }, figure(c.rtt ? `${c.rtt} ms` : "–", "round trip"), figure(`${(c.loss * 100).toFixed(c.loss < 0.1 ? 1 : 0)} %`, "loss"), figure(rate(c.up), "up"), figure(rate(c.down), "down")),
			el("code", { textContent: c.candidate }));
	})));
	const nat = state.nat ?? {};
	once($("nat"), JSON.stringify(nat), () => {
		const list = el("ul");
		for (const l of nat.lines ?? []) list.append(el("li", { className: l.warn ? "warn" : "", textContent: l.text }));
		$("nat").replaceChildren(...(nat.title ? [el("p", { textContent: nat.title })] : []), list);
	});
	$("nat-run").disabled = nat.state === "running";
	$("nat-run").textContent = nat.state === "running" ? "Checking…" : nat.state === "done" ? "Check again" : "Check my network";
	$("nat-consent").textContent = nat.servers?.length ? `Sends about 60 small packets to ${nat.servers.join(", ")}.` : "";
}

// ---- panes and dialogs

function openPane(name) {
	$("panel").hidden = !name;
	$("chat").hidden = name !== "chat";
	$("net").hidden = name !== "net";
	$("chat-open").setAttribute("aria-expanded", name === "chat");
	$("net-open").setAttribute("aria-expanded", name === "net");
	if (name === "chat") $("say").focus();
	renderChat();
}
const toggle = (name) => openPane(!$("panel").hidden && !$(name).hidden ? null : name);

function openSafety(leg) {
	$("safety").dataset.leg = leg;
	renderSafety();
	$("safety").showModal();
}
function renderSafety() {
	const c = state.calls.find((c) => c.leg === Number($("safety").dataset.leg));
	if (!c || c.state !== "in-call") {
		if ($("safety").open) $("safety").close();
		return;
	}
	const bad = c.standing === "changed" || c.standing === "forged" || c.tampered;
	$("safety-title").textContent = c.tampered ? "Somebody interferes" : c.standing === "forged" ? `This may not be ${c.name}` : c.standing === "changed" ? `${c.name} has another key` : `Is it really ${c.name}?`;
	$("safety-code").textContent = c.tampered ? "" : c.code ?? "";
	$("safety-words").textContent = c.tampered ? "The code could not be agreed upon. Hang up." :
		`Read the code to each other.${bad ? " A new machine has a new key; so has somebody else." : " If it is the same, nobody sits between you."}`;
	$("safety-yes").hidden = $("safety-no").hidden = !c.code || c.tampered || c.standing === "";
}

const place = (who) => {
	sound().catch(() => {});
	command({ do: "call", name: who.trim() });
};

$("name").value = localStorage.getItem("name") ?? "";
$("name-form").onsubmit = (e) => {
	e.preventDefault();
	localStorage.setItem("name", $("name").value.trim());
	sound().catch(() => {});
	openMedia();
	command({ do: "name", name: $("name").value.trim() });
};
$("preview-on").onclick = openMedia;
$("call-form").onsubmit = (e) => {
	e.preventDefault();
	place($("who").value);
	$("who").value = "";
};
$("me").onclick = async () => {
	try {
		await navigator.clipboard.writeText(state.id);
		announce("Your ID is copied");
	} catch { /* not allowed: it is shown in the title */ }
	$("me").title = state.id;
};
$("accept").onclick = () => {
	sound().catch(() => {});
	command({ do: "accept", leg: Number($("ring").dataset.leg) });
};
$("refuse").onclick = () => command({ do: "end", leg: Number($("ring").dataset.leg) });
$("ring").oncancel = (e) => {
	e.preventDefault();
	$("refuse").click();
};
$("end").onclick = () => {
	for (const c of state.calls) if (c.state === "ended") command({ do: "dismiss", leg: c.leg });
	command({ do: "end-all" });
};
const device = (id, name) => {
	$(id).onclick = () => {
		const on = $(id).getAttribute("aria-pressed") !== "true";
		$(id).setAttribute("aria-pressed", on);
		sender[name] = on;
		if (id === "camera") document.querySelector(".self").classList.toggle("off", !on);
		for (const t of (id === "mic" ? sender.stream?.getAudioTracks() : sender.stream?.getVideoTracks()) ?? []) t.enabled = on;
		announce(`${id === "mic" ? "Microphone" : "Camera"} ${on ? "on" : "off"}`);
	};
};
device("mic", "micOn");
device("camera", "cameraOn");
$("chat-open").onclick = () => toggle("chat");
$("net-open").onclick = () => toggle("net");
$("panel-close").onclick = () => openPane(null);
$("add-open").onclick = () => $("add").showModal();
$("add-close").onclick = () => $("add").close();
$("add-form").onsubmit = (e) => {
	e.preventDefault();
	place($("add-who").value);
	$("add-who").value = "";
	$("add").close();
};
$("say-form").onsubmit = (e) => {
	e.preventDefault();
	if ($("say").value.trim()) command({ do: "say", text: $("say").value });
	$("say").value = "";
};
$("nat-run").onclick = () => command({ do: "check-network" });
$("safety-yes").onclick = () => {
	command({ do: "codes-match", leg: Number($("safety").dataset.leg) });
	$("safety").close();
};
$("safety-no").onclick = () => {
	command({ do: "codes-differ", leg: Number($("safety").dataset.leg) });
	$("safety").close();
};
$("safety-close").onclick = () => $("safety").close();
document.addEventListener("keydown", (e) => {
	if (document.body.dataset.view !== "call" || e.target.matches("input") || e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
	const key = { m: "mic", v: "camera", c: "chat-open", n: "net-open" }[e.key.toLowerCase()];
	if (key) $(key).click();
	else if (e.key === "Escape" && !$("panel").hidden) openPane(null);
	else return;
	e.preventDefault();
});
$("start-hint").textContent = globalThis.VideoEncoder ? "" : "This browser cannot encode video: use a current Chromium, Edge, Safari or Firefox.";

connect();
