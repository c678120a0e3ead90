#include "tests/server/api/tiny_server.h"

#include <filesystem>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/client_interceptor.h"
#include "tests/fakes/safetensors_writer.h"

namespace lorica {
namespace {

constexpr int kHidden = 64;
constexpr int kQueries = 96;

std::string Floats(int count, float size, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return BytesOf(values);
}

// Adds the key to each call.
class KeyShower : public grpc::experimental::Interceptor {
 public:
  class Factory : public grpc::experimental::ClientInterceptorFactoryInterface {
   public:
    explicit Factory(std::string key) : key_(std::move(key)) {}
    grpc::experimental::Interceptor* CreateClientInterceptor(
        grpc::experimental::ClientRpcInfo*) override {
      return new KeyShower(key_);
    }

   private:
    const std::string key_;
  };
  explicit KeyShower(const std::string& key) : key_(key) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* call) override {
    using Hook = grpc::experimental::InterceptionHookPoints;
    if (call->QueryInterceptionHookPoint(Hook::PRE_SEND_INITIAL_METADATA)) {
      call->GetSendInitialMetadata()->insert({"authorization", "Bearer " + key_});
    }
    call->Proceed();
  }

 private:
  const std::string& key_;
};

}  // namespace

void WriteTinyAdapter(const TemporaryFolder& folder, const std::string& id, int rank, bool dora,
                      int seed) {
  folder.Write(id + "/adapter_config.json",
               absl::StrCat(R"({"peft_type": "LORA", "r": )", rank,
                            R"(, "lora_alpha": 8, "target_modules": ["q_proj"], "use_dora": )",
                            dora ? "true" : "false", "}"));
  std::mt19937 random(rank + 1000 * seed);
  const std::string stem = "base_model.model.model.layers.0.self_attn.q_proj.";
  std::vector<TensorToWrite> tensors = {
      {stem + "lora_A.weight", "F32", {rank, kHidden}, Floats(rank * kHidden, 0.2f, random)},
      {stem + "lora_B.weight", "F32", {kQueries, rank}, Floats(kQueries * rank, 0.2f, random)}};
  if (dora) {
    tensors.push_back({stem + "lora_magnitude_vector",
                       "F32",
                       {kQueries},
                       BytesOf(std::vector<float>(kQueries, 1.0f))});
  }
  folder.Write(id + "/adapter_model.safetensors", SafetensorsFile(tensors));
}

std::string TinyModelPath() { return LORICA_TEST_DATA "/reference/tiny-llama"; }

void TinyServer::WriteAdapter(const std::string& id, int rank, bool dora) const {
  WriteTinyAdapter(adapters_, id, rank, dora);
}

void TinyServer::WriteHugeAdapter(const std::string& id) const {
  WriteAdapter(id, 4, false);
  const auto huge = [](int64_t count) { return BytesOf(std::vector<float>(count, 3e38f)); };
  const std::string stem = "base_model.model.model.layers.0.self_attn.q_proj.";
  adapters_.Write(
      id + "/adapter_model.safetensors",
      SafetensorsFile({{stem + "lora_A.weight", "F32", {4, kHidden}, huge(4 * kHidden)},
                       {stem + "lora_B.weight", "F32", {kQueries, 4}, huge(4 * kQueries)}}));
}

void TinyServer::LinkAdapters(const std::string& prefix, int count) const {
  namespace fs = std::filesystem;
  constexpr int kOfOwner = 100;
  const fs::path root = adapters_.path();
  const std::string owner = absl::StrCat(".", prefix);  // not listed itself
  fs::create_directory(root / owner);
  for (int i = 0; i < kOfOwner; ++i) {
    fs::create_directory_symlink("../plain", root / owner / absl::StrCat(i));
  }
  const int owners = count / kOfOwner;
  for (int i = 0; i < owners + count % kOfOwner; ++i) {
    fs::create_directory_symlink(i < owners ? owner : "plain", root / absl::StrCat(prefix, "-", i));
  }
}

std::shared_ptr<grpc::Channel> ChannelWithKey(int port, const std::string& key) {
  // Small, fixed windows: a stream that is not read fills them and stands still.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> shown;
  if (!key.empty()) shown.push_back(std::make_unique<KeyShower::Factory>(key));
  return grpc::experimental::CreateCustomChannelWithInterceptors(absl::StrCat("127.0.0.1:", port),
                                                                 grpc::InsecureChannelCredentials(),
                                                                 arguments, std::move(shown));
}

TinyServer::TinyServer(Config config, const std::string& key) {
  WriteAdapter("plain", 4, false);
  WriteAdapter("other", 8, false);
  WriteAdapter("dora", 4, true);
  adapters_.Write("broken/adapter_config.json", R"({"peft_type": "LORA", "r": 4})");
  if (config.model.empty()) config.model = TinyModelPath();
  config.adapters_dir = adapters_.path();
  if (config.grpc_address == Config().grpc_address) config.grpc_address = "127.0.0.1:0";
  config.http_address = "127.0.0.1:0";
  config.threads = 1;
  config.arena_bytes = std::min<int64_t>(config.arena_bytes, 16 << 20);
  auto server = Server::Start(config);
  if (!server.ok()) {
    ADD_FAILURE() << server.status();
    std::abort();
  }
  server_ = *std::move(server);
  channel_ = ChannelWithKey(server_->port(), key);
  inference_ = v1::InferenceService::NewStub(channel_);
  admin_ = v1::AdapterService::NewStub(channel_);
  status_ = v1::ServerService::NewStub(channel_);
}

TinyServer::~TinyServer() { server_->Stop(); }

v1::GetStatusResponse TinyServer::Status() {
  Context context;
  v1::GetStatusResponse response;
  const grpc::Status status = status_->GetStatus(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

RawAnswer RawCall(const TinyServer& server, const std::string& method, const std::string& request) {
  grpc::GenericStub stub(server.channel());
  grpc::CompletionQueue queue;
  Context context;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer message(&slice, 1);
  auto call = stub.PrepareUnaryCall(&context, method, message, &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  RawAnswer answer;
  call->Finish(&reply, &answer.status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  grpc::Slice bytes;
  if (answer.status.ok() && reply.DumpToSingleSlice(&bytes).ok()) {
    answer.bytes = std::string(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  }
  return answer;
}

v1::GenerateRequest TokensRequest(int tokens) {
  v1::GenerateRequest request;
  for (const int id : {5, 6, 7}) request.add_token_ids(id);
  request.set_max_tokens(tokens);
  request.set_ignore_eos(true);
  return request;
}

}  // namespace lorica
