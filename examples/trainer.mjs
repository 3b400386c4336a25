// A trainer in JavaScript: npm install @grpc/grpc-js @grpc/proto-loader; node trainer.mjs HOST:PORT PROTO_FOLDER
import { randomUUID } from "node:crypto";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [target = "127.0.0.1:50051", protos = "proto"] = process.argv.slice(2);
const definition = loader.loadSync("curriculum/v1/curriculum.proto", {
  includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true,
});
const { CurriculumService } = grpc.loadPackageDefinition(definition).curriculum.v1;
const client = new CurriculumService(target, grpc.credentials.createInsecure());

// The request_id stays the same when a call is sent again, so it is counted once.
function call(method, fields) {
  const request = { curriculum_id: "from-js", request_id: randomUUID(), ...fields };
  return new Promise((resolve, reject) => {
    const done = (error, answer) => (error ? reject(error) : resolve(answer));
    if (method !== "AddPrompts") return client[method](request, done);
    const stream = client.AddPrompts(done);
    stream.write(request);
    stream.end();
  });
}

const rewardOf = (prompt) => (Math.random() < Number(prompt.split("-")[1]) / 100 ? 1 : 0); // your policy and verifier

await call("CreateCurriculum", { strategy: { preset: "uniform-grpo" } });
await call("AddPrompts", { prompt_ids: Array.from({ length: 101 }, (_, i) => `prompt-${i}`) });
for (let step = 0; step < 3; step++) {
  const { batch } = await call("NextBatch", { batch_size: 16, policy_version: step });
  const rewards = batch.prompt_ids.flatMap((id, i) => Array.from({ length: batch.quotas[i] }, () => rewardOf(id)));
  const { accepted } = await call("ReportRollouts", {
    lease_id: batch.lease_id, prompt_ids: batch.prompt_ids, rollout_counts: batch.quotas, rewards, policy_version: step,
  });
  console.log(`step ${step}: ${batch.prompt_ids.length} prompts, ${accepted} rollouts counted`);
  await call("AdvancePolicy", { policy_version: step + 1 });
}
client.close();
