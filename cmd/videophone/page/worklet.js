// Sound on the audio thread: Take hands the microphone over in packets of 20 ms, Give plays what arrived, behind a small jitter buffer.

const packet = 960; // samples of 20 ms at 48 kHz

class Take extends AudioWorkletProcessor {
	constructor() {
		super();
		this.buffer = new Float32Array(packet);
		this.filled = 0;
	}
	process([input]) {
		const mono = input[0];
		if (!mono) return true;
		for (let i = 0; i < mono.length;) {
			const n = Math.min(packet - this.filled, mono.length - i);
			this.buffer.set(mono.subarray(i, i + n), this.filled);
			this.filled += n;
			i += n;
			if (this.filled === packet) {
				this.port.postMessage(this.buffer, [this.buffer.buffer]);
				this.buffer = new Float32Array(packet);
				this.filled = 0;
			}
		}
		return true;
	}
}

// The buffer begins to play when it holds `target`; above `most` it drops the oldest, so that a burst does not stay as delay; when it has run
// empty the target grows, up to half of `most`, and shrinks again while all is well.
const least = 0.06 * sampleRate, most = 0.25 * sampleRate;

class Give extends AudioWorkletProcessor {
	constructor() {
		super();
		this.queue = [];
		this.held = 0;
		this.at = 0;
		this.target = least;
		this.playing = false;
		this.smooth = 0;
		this.port.onmessage = ({ data }) => {
			this.queue.push(data);
			this.held += data.length;
			if (this.held > most) while (this.held > this.target && this.queue.length > 1) this.drop();
		};
	}
	drop() {
		this.held -= this.queue[0].length - this.at;
		this.queue.shift();
		this.at = 0;
	}
	process(_, [output]) {
		const out = output[0];
		if (!this.playing && this.held < this.target) return true;
		this.playing = true;
		for (let i = 0; i < out.length;) {
			const head = this.queue[0];
			if (!head) {
				this.playing = false;
				this.smooth = 0;
				this.target = Math.min(this.target * 1.5, most / 2);
				break;
			}
			const n = Math.min(head.length - this.at, out.length - i);
			out.set(head.subarray(this.at, this.at + n), i);
			i += n;
			this.at += n;
			this.held -= n;
			if (this.at === head.length) {
				this.queue.shift();
				this.at = 0;
			}
		}
		if (++this.smooth > 5 * sampleRate / 128) {
			this.smooth = 0;
			this.target = Math.max(least, this.target * 0.9);
		}
		for (let c = 1; c < output.length; c++) output[c].set(out);
		return true;
	}
}

registerProcessor("take", Take);
registerProcessor("give", Give);
