// The Durable Streams reference server on a given port, with what it is told kept in a folder. It prints its address.
import { createRequire } from "node:module"
import { join } from "node:path"

const { DurableStreamTestServer } = createRequire(join(process.cwd(), "package.json"))("@durable-streams/server")

const [port, dataDir] = process.argv.slice(2)
const server = new DurableStreamTestServer({ host: "127.0.0.1", port: Number(port), dataDir, longPollTimeout: 3000 })
console.log(await server.start())
