// Reads SCONCE_EMULATED_GPU: a list, with commas, of what the emulated machine has and which faults it shows.
//
//   devices=N            how many GPUs (0: cuInit answers CUDA_ERROR_NO_DEVICE)
//   driver=12040         what cuDriverGetVersion answers; older than 13000 refuses the plugin's PTX
//   capability=7.5       the compute capability; below 8.0 refuses the plugin's PTX
//   memory=BYTES         device memory: more answers CUDA_ERROR_OUT_OF_MEMORY
//   name=TEXT            the device's name
//   launch_fails_at=N    the Nth launch (from 1, cuBLAS's counted) answers CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES; later ones work
//   launch_fails_when=PATH  the same with the first launch at which a file PATH exists, which is removed then
//   lost_at=N            from the Nth launch on every call answers CUDA_ERROR_ILLEGAL_ADDRESS
//   lost_when=PATH       the same from the first launch at which a file PATH exists
//   lost_with=CODE       another code for these two, such as 719
//   garbage=NAME         launches whose name contains NAME do nothing (`gemm` is the name of cuBLAS's)
//   check                looks for writes outside of allocations after every launch, not only when memory is freed or read
//   guard                a page without access after every allocation: also bad reads are caught, at the instruction
//   reverse              threads and blocks run from the last to the first
//   launches             names every launch on stderr, with its number
//   trace                names every function that is not emulated when it is called
//
// CUDA_VISIBLE_DEVICES is honoured: ordinals or UUIDs, up to the first that is not there.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "../runtime/launch.h"
#include "driver.h"

namespace sconce {

namespace {

void read_item(Options& options, const std::string& key, const std::string& value) {
    if (key == "devices") options.devices = std::atoi(value.c_str());
    else if (key == "driver") options.driver_version = std::atoi(value.c_str());
    else if (key == "capability") std::sscanf(value.c_str(), "%d.%d", &options.capability_major, &options.capability_minor);
    else if (key == "memory") options.memory = std::strtoull(value.c_str(), nullptr, 10);
    else if (key == "name") options.name = value;
    else if (key == "launch_fails_at") options.launch_fails_at = std::strtoull(value.c_str(), nullptr, 10);
    else if (key == "launch_fails_when") options.launch_fails_when = value;
    else if (key == "lost_at") options.lost_at = std::strtoull(value.c_str(), nullptr, 10);
    else if (key == "lost_when") options.lost_when = value;
    else if (key == "lost_with") options.lost_with = std::atoi(value.c_str());
    else if (key == "garbage") options.garbage = value;
    else if (key == "check") options.check = true;
    else if (key == "guard") options.guard = true;
    else if (key == "reverse") launch_options.reverse = true;
    else if (key == "launches") options.launches = true;
    else if (key == "trace") options.trace = true;
    else if (!key.empty()) std::fprintf(stderr, "SCONCE_EMULATED_GPU: unknown `%s`\n", key.c_str());
}

// The machine's ordinal that one word of CUDA_VISIBLE_DEVICES names, or -1.
int ordinal_of(const std::string& word, int devices) {
    if (word.rfind("GPU-", 0) == 0) {
        for (int i = 0; i < devices; i++)
            if (("GPU-73636f6e-6365-0000-0000-00000000000" + std::to_string(i)).rfind(word, 0) == 0) return i;
        return -1;
    }
    char* end;
    const long ordinal = std::strtol(word.c_str(), &end, 10);
    return word.empty() || *end || ordinal < 0 || ordinal >= devices ? -1 : int(ordinal);
}

std::vector<int> visible_devices(int devices) {
    std::vector<int> visible;
    const char* list = std::getenv("CUDA_VISIBLE_DEVICES");
    if (!list) {
        for (int i = 0; i < devices; i++) visible.push_back(i);
        return visible;
    }
    std::stringstream words(list);
    for (std::string word; std::getline(words, word, ',');) {
        const int ordinal = ordinal_of(word, devices);
        if (ordinal < 0) break;
        visible.push_back(ordinal);
    }
    return visible;
}

}  // namespace

Options read_options() {
    Options options;
    const char* text = std::getenv("SCONCE_EMULATED_GPU");
    std::stringstream items(text ? text : "");
    for (std::string item; std::getline(items, item, ',');) {
        const size_t equals = item.find('=');
        read_item(options, item.substr(0, equals), equals == std::string::npos ? "" : item.substr(equals + 1));
    }
    options.visible = visible_devices(options.devices);
    return options;
}

}  // namespace sconce
