// The Durable Streams reference server on a free port. It prints its address first.
import { createRequire } from "node:module"
import { join } from "node:path"

// The packages are where this program was started, not where it is kept.
const { DurableStreamTestServer } = createRequire(join(process.cwd(), "package.json"))("@durable-streams/server")

const server = new DurableStreamTestServer({ host: "127.0.0.1", port: 0, longPollTimeout: 3000 })
console.log(await server.start())
