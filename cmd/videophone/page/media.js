// Camera and microphone to coded frames, and coded frames to pictures and sound. The frames' form is that of frame.go.

const kindAudio = 1, kindVideo = 2, packetConfig = 0, packetCoded = 1, header = 16;

const began = performance.now();
const clock = () => Math.round(performance.now() - began);

function pack(kind, packet, key, codec, time, data) {
	const b = new Uint8Array(header + data.byteLength), v = new DataView(b.buffer);
	b[0] = kind;
	b[1] = packet;
	b[2] = key ? 1 : 0;
	for (let i = 0; i < 4; i++) b[8 + i] = codec.charCodeAt(i);
	v.setUint32(12, time >>> 0);
	b.set(data, header);
	return b;
}

export function unpack(buffer) {
	const b = new Uint8Array(buffer), v = new DataView(buffer);
	return {
		kind: b[0], config: b[1] === packetConfig, key: (b[2] & 1) !== 0, leg: v.getUint32(4),
		codec: String.fromCharCode(...b.subarray(8, 12)), time: v.getUint32(12), data: b.subarray(header),
	};
}

const bytes = (source) => !source ? new Uint8Array() : ArrayBuffer.isView(source) ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength) : new Uint8Array(source);

// abilities says what this browser encodes and decodes.
export async function abilities() {
	const can = { video: [], audio: [], encode: [] };
	const ask = async (api, config) => {
		try {
			return (await api?.isConfigSupported(config))?.supported === true;
		} catch {
			return false;
		}
	};
	if (await ask(globalThis.VideoDecoder, { codec: "vp8" })) can.video.push("vp08");
	if (await ask(globalThis.VideoDecoder, { codec: "avc1.42001f" })) can.video.push("avc1");
	if (await ask(globalThis.AudioDecoder, { codec: "opus", sampleRate: 48000, numberOfChannels: 1 })) can.audio.push("Opus");
	if (await ask(globalThis.VideoEncoder, encoding("vp08", 640, 480, 5e5))) can.encode.push("vp08");
	if (await ask(globalThis.VideoEncoder, encoding("avc1", 640, 480, 5e5))) can.encode.push("avc1");
	return can;
}

function encoding(codec, width, height, bitrate) {
	const c = { codec: codec === "avc1" ? "avc1.42001f" : "vp8", width, height, bitrate, framerate: 24, latencyMode: "realtime" };
	if (codec === "avc1") c.avc = { format: "avc" };
	return c;
}

let context;
// sound returns the AudioContext, which a browser lets play after the person has pressed something.
export async function sound() {
	if (!context) {
		context = new AudioContext({ sampleRate: 48000, latencyHint: "interactive" });
		context.ready = context.audioWorklet.addModule("worklet.js");
	}
	if (context.state === "suspended") context.resume().catch(() => {});
	await context.ready;
	return context;
}

// Sender takes camera and microphone and gives coded frames to `send`, as long as it is told to.
export class Sender {
	constructor(send, congested) {
		this.send = send;
		this.congested = congested; // whether what was sent is still waiting in this browser
		this.target = { video: 0, audio: 0, codec: "vp08", sending: false };
		this.keyWanted = false;
		this.frames = 0;
		this.micOn = this.cameraOn = true;
	}

	// open asks for the devices; without a camera it makes do with a microphone, and without one with a camera.
	async open() {
		if (this.stream) return this.stream;
		const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
		const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 24 } };
		let problem;
		for (const want of [{ audio, video }, { audio }, { video }]) {
			try {
				this.stream = await navigator.mediaDevices.getUserMedia(want);
				break;
			} catch (e) {
				problem ??= e;
				if (e.name === "NotAllowedError") break;
			}
		}
		if (!this.stream) throw problem;
		for (const t of this.stream.getVideoTracks()) this.watch(t);
		if (this.stream.getAudioTracks().length) await this.listen();
		return this.stream;
	}

	aim(target) {
		this.target = target;
		if (this.wanted !== target.key) {
			this.wanted = target.key;
			this.keyWanted = true;
		}
		if (!target.sending) {
			this.video?.state === "configured" && this.video.close();
			this.audio?.state === "configured" && this.audio.close();
			this.video = this.audio = this.configured = undefined;
		}
	}

	async watch(track) {
		if (globalThis.MediaStreamTrackProcessor) {
			const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 2 }).readable.getReader();
			for (;;) {
				const { done, value } = await reader.read();
				if (done) return;
				this.picture(value);
			}
		}
		const view = document.createElement("video");
		view.srcObject = new MediaStream([track]);
		view.muted = view.playsInline = true;
		await view.play();
		const next = () => {
			if (track.readyState === "ended") return;
			this.picture(new VideoFrame(view, { timestamp: Math.round(performance.now() * 1000) }));
			view.requestVideoFrameCallback(next);
		};
		view.requestVideoFrameCallback(next);
	}

	picture(frame) {
		const t = this.target;
		this.frames++;
		// Below 150 kbit/s fewer pictures look better than worse ones.
		const skip = t.video < 150e3 && this.frames % 2 === 1;
		if (!t.sending || !this.cameraOn || t.video <= 0 || skip || this.congested() || this.video?.encodeQueueSize > 2) {
			frame.close();
			return;
		}
		const small = t.video < 220e3 ? 2 : 1;
		const width = (frame.displayWidth / small) & ~1, height = (frame.displayHeight / small) & ~1;
		const c = this.configured;
		if (!this.video || this.video.state === "closed") {
			const codec = t.codec;
			this.video = new VideoEncoder({ output: (chunk, meta) => this.coded(codec, chunk, meta), error: () => { this.video = undefined; } });
			this.configured = undefined;
		}
		if (!this.configured || c.codec !== t.codec || c.width !== width || c.height !== height || Math.abs(c.bitrate - t.video) > 0.15 * c.bitrate) {
			if (c && c.codec !== t.codec) {
				this.video.close();
				this.video = this.configured = undefined;
				frame.close();
				return;
			}
			try {
				this.video.configure(encoding(t.codec, width, height, Math.round(t.video)));
			} catch {
				frame.close();
				return;
			}
			this.configured = { codec: t.codec, width, height, bitrate: t.video };
		}
		const now = performance.now();
		const keyFrame = this.keyWanted || !(now - this.lastKey < 4000);
		if (keyFrame) {
			this.lastKey = now;
			this.keyWanted = false;
		}
		this.video.encode(frame, { keyFrame });
		frame.close();
	}

	coded(codec, chunk, meta) {
		const time = clock(), config = meta?.decoderConfig;
		if (config) this.send(pack(kindVideo, packetConfig, true, codec, time, bytes(config.description)));
		const data = new Uint8Array(chunk.byteLength);
		chunk.copyTo(data);
		this.send(pack(kindVideo, packetCoded, chunk.type === "key", codec, time, data));
	}

	async listen() {
		const ctx = await sound();
		const take = new AudioWorkletNode(ctx, "take", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
		ctx.createMediaStreamSource(new MediaStream(this.stream.getAudioTracks())).connect(take);
		take.port.onmessage = ({ data }) => this.heard(data);
	}

	heard(samples) {
		const t = this.target;
		if (!t.sending || !this.micOn || t.audio <= 0) return;
		if (!this.audio || this.audio.state === "closed" || this.audioRate !== t.audio) {
			this.audio?.state === "configured" && this.audio.close();
			this.audio = new AudioEncoder({ output: (chunk, meta) => this.codedAudio(chunk, meta), error: () => { this.audio = undefined; } });
			this.audio.configure({ codec: "opus", sampleRate: 48000, numberOfChannels: 1, bitrate: t.audio, opus: { frameDuration: 20000 } });
			this.audioRate = t.audio;
			this.sampleTime = Math.round(performance.now() * 1000);
		}
		// The microphone's clock counts, and the machine's corrects it when they have drifted apart.
		const now = Math.round(performance.now() * 1000);
		if (Math.abs(now - this.sampleTime) > 60000) this.sampleTime = now;
		const data = new AudioData({ format: "f32-planar", sampleRate: 48000, numberOfFrames: samples.length, numberOfChannels: 1, timestamp: this.sampleTime, data: samples });
		this.sampleTime += samples.length * 1e6 / 48000;
		this.audio.encode(data);
		data.close();
	}

	codedAudio(chunk, meta) {
		const time = Math.max(0, Math.round(chunk.timestamp / 1000 - began));
		if (meta?.decoderConfig) this.send(pack(kindAudio, packetConfig, true, "Opus", time, bytes(meta.decoderConfig.description)));
		const data = new Uint8Array(chunk.byteLength);
		chunk.copyTo(data);
		this.send(pack(kindAudio, packetCoded, true, "Opus", time, data));
	}
}

// Receiver shows and plays what one peer sends. `lost` is called when only a key frame helps.
export class Receiver {
	constructor(canvas, lost) {
		this.canvas = canvas;
		this.lost = lost;
		this.picture = canvas.getContext("2d", { alpha: false, desynchronized: true });
		this.level = 0; // of the sound, 0 to 1
		this.shown = 0; // pictures
		this.last = 0; // when the last one came
		this.needKey = true;
	}

	take(f) {
		try {
			f.kind === kindVideo ? this.see(f) : this.hear(f);
		} catch {
			if (f.kind === kindVideo) this.restart();
			else this.audio = undefined;
		}
	}

	see(f) {
		if (f.config) {
			this.description = f.data.length ? f.data.slice() : undefined;
			this.setVideo(f.codec);
			return;
		}
		if (!this.video || this.codec !== f.codec || this.video.state === "closed") {
			if (!f.key) return this.restart();
			this.setVideo(f.codec);
		}
		if (this.needKey && !f.key) return this.restart();
		this.needKey = false;
		this.video.decode(new EncodedVideoChunk({ type: f.key ? "key" : "delta", timestamp: f.time * 1000, data: f.data }));
	}

	setVideo(codec) {
		if (this.video?.state === "configured") this.video.close();
		this.video = new VideoDecoder({ output: (frame) => this.draw(frame), error: () => this.restart() });
		this.codec = codec;
		this.needKey = true;
		const d = this.description, hex = (i) => d[i].toString(16).padStart(2, "0");
		const name = { vp08: "vp8", vp09: "vp09.00.10.08", av01: "av01.0.04M.08", hvc1: "hvc1.1.6.L93.B0" }[codec] ?? `avc1.${d ? hex(1) + hex(2) + hex(3) : "42001f"}`;
		this.video.configure({ codec: name, optimizeForLatency: true, ...(d && codec !== "vp08" ? { description: d } : {}) });
	}

	restart() {
		this.needKey = true;
		const now = performance.now();
		if (!(now - this.asked < 500)) {
			this.asked = now;
			this.lost();
		}
	}

	draw(frame) {
		const { canvas } = this;
		if (canvas.width !== frame.displayWidth || canvas.height !== frame.displayHeight) {
			canvas.width = frame.displayWidth;
			canvas.height = frame.displayHeight;
		}
		this.picture.drawImage(frame, 0, 0);
		frame.close();
		this.shown++;
		this.last = performance.now();
	}

	hear(f) {
		if (f.config || !this.audio || this.audio.state === "closed") {
			if (this.audio?.state === "configured") this.audio.close();
			this.audio = new AudioDecoder({ output: (data) => this.play(data), error: () => { this.audio = undefined; } });
			const c = { codec: { Opus: "opus", mp4a: "mp4a.40.2", ".mp3": "mp3", fLaC: "flac" }[f.codec], sampleRate: 48000, numberOfChannels: 1 };
			if (f.config && f.codec === "Opus" && f.data.length > 9) c.numberOfChannels = Math.min(2, f.data[9] || 1);
			if (f.config && (f.codec === "mp4a" || f.codec === "fLaC")) c.description = f.data.slice();
			if (f.config && f.codec === "mp4a" && f.data.length > 1) {
				const index = (f.data[0] & 7) << 1 | f.data[1] >> 7;
				c.sampleRate = [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000][index] ?? 48000;
				c.numberOfChannels = Math.min(2, f.data[1] >> 3 & 15 || 1);
			}
			this.audio.configure(c);
			if (f.config) return;
		}
		this.audio.decode(new EncodedAudioChunk({ type: "key", timestamp: f.time * 1000, data: f.data }));
	}

	play(data) {
		const samples = new Float32Array(data.numberOfFrames);
		data.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
		const rate = data.sampleRate;
		data.close();
		let sum = 0;
		for (const s of samples) sum += s * s;
		this.level = Math.max(Math.sqrt(sum / samples.length), this.level * 0.8);
		this.heard = performance.now();
		if (!this.sink) {
			this.sink = sound().then((ctx) => {
				const give = new AudioWorkletNode(ctx, "give", { numberOfInputs: 0, outputChannelCount: [2] });
				give.connect(ctx.destination);
				return give;
			});
		}
		const even = rate === 48000 ? samples : resample(samples, rate);
		this.sink.then((give) => give.port.postMessage(even, [even.buffer]));
	}

	close() {
		if (this.video?.state === "configured") this.video.close();
		if (this.audio?.state === "configured") this.audio.close();
		this.sink?.then((give) => give.disconnect());
	}
}

function resample(samples, rate) {
	const out = new Float32Array(Math.round(samples.length * 48000 / rate)), step = rate / 48000;
	for (let i = 0; i < out.length; i++) {
		const x = i * step, k = Math.floor(x), a = samples[k], b = samples[Math.min(k + 1, samples.length - 1)];
		out[i] = a + (b - a) * (x - k);
	}
	return out;
}

// ringTone plays two soft notes every three seconds until the returned function is called.
export function ringTone() {
	let stop = false;
	(async () => {
		const ctx = await sound();
		while (!stop) {
			for (const [at, pitch] of [[0, 523.25], [0.28, 659.25]]) {
				const tone = new OscillatorNode(ctx, { frequency: pitch, type: "sine" }), gain = new GainNode(ctx, { gain: 0 });
				tone.connect(gain).connect(ctx.destination);
				gain.gain.setValueAtTime(0, ctx.currentTime + at);
				gain.gain.linearRampToValueAtTime(0.12, ctx.currentTime + at + 0.02);
				gain.gain.exponentialRampToValueAtTime(0.001, ctx.currentTime + at + 0.9);
				tone.start(ctx.currentTime + at);
				tone.stop(ctx.currentTime + at + 1);
			}
			await new Promise((done) => setTimeout(done, 3000));
		}
	})().catch(() => {});
	return () => { stop = true; };
}
